"""What is said of a single series, by its names, its kernel and its headers; and of studies without an exam."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dicom_node.eligibility import STUDY_CODE, STUDY_SENTENCES, choose
from dicom_node.facts import InstanceFacts
from tests.dicom_node.header_facts import (
    CORONAL,
    GE,
    PHILIPS,
    RT_DOSE,
    RULES,
    SAGITTAL,
    SECONDARY_CAPTURE,
    SEG,
    SIEMENS,
    SR,
    TOSHIBA,
    judge,
    localizer,
    number_of,
    series,
    verdict,
)


# --- single series by their names -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "description",
    [
        "Plain", "PLAIN THIN", "PRE CONTRAST 5MM STD", "HEAD W/O", "HEAD W/O CONTRAST", "Head without contrast",
        "NON-CONTRAST HEAD", "Non Contrast Enhanced", "NCCT", "NONCON HEAD", "Unenhanced", "nativ",
        "Kopf nativ ohne KM",
        "crane sans injection", "BRAIN WO", "HEAD ROUTINE", "Axial", "AX 5MM", "POST FOSSA", "Posterior Fossa",
        "post op head", "orbitomeatal 5mm", "LOW DOSE HEAD", "HEAD + C-SPINE", "5.55mm Plain",
        "NC HEAD", "Neurocranium 5.0", "Schädel 5mm", "cráneo simple", "Head/Neck 5.0 H30s", "2.55mm",
        "Non-enhanced head", "C- HEAD", "W/O IV CONTRAST",
        "CT Schädel o. KM", "cCT o.KM 4mm", "CRANIO SEM CONTRASTE", "Crânio s/ contraste 5mm", "Crane IV-",
        "Cranio senza m.d.c.", "Encefalo s.m.d.c.",
        "Głowa bez kontrastu", "GLOWA BEZ KM 5.0", "Mózgowie natywne", "Mozek bez kontrastu", "Hlava nativně",
        "Mozog bez KL", "Glava bez kontrasta", "Koponya kontraszt nélkül", "Cerebral fără contrast", "Craniu nativ",
        "Hjärna utan kontrast 5.0", "Hjerne uten kontrast", "Hjerne uden kontrast", "Aivot ilman varjoainetta",
        "Pään natiivi-TT", "Beyin kontrastsız", "KONTRASTSIZ BEYIN BT", "Голова без контраста", "Головной мозг натив",
        "Голова без контрасту", "Εγκέφαλος χωρίς σκιαγραφικό", "KEPALA TANPA KONTRAS", "Sọ não không tiêm thuốc",
        "头颅平扫", "脑血管病平扫", "頭部單純", "頭部単純CT", "頭部 非造影", "頭部（造影なし）", "頭部造影前",
        "뇌 비조영",
        "두부 조영전 5mm", "脑非增强",
    ],
)  # fmt: skip
def test_names_of_plain_head_series_pass(description: str) -> None:
    """Words that look like contrast, bone or another body part but are not."""
    assert number_of(judge(series(1, description))) == 1, verdict(judge(series(1, description)), 1).reason


@pytest.mark.parametrize(
    ("description", "code"),
    [
        ("POST CONTRAST", "CONTRAST"), ("postcontrast ax", "CONTRAST"), ("CTA HEAD", "CONTRAST"),
        ("AngioHead", "CONTRAST"), ("CT Angiography", "CONTRAST"), ("HEAD +C", "CONTRAST"), ("HEAD C+", "CONTRAST"),
        ("Head with contrast", "CONTRAST"), ("HEAD W/CONTRAST", "CONTRAST"), ("CE CT BRAIN", "CONTRAST"),
        ("W & W/O CONTRAST", "CONTRAST"), ("VENOUS PHASE", "CONTRAST"), ("Kopf mit KM", "CONTRAST"),
        ("Kopf nach KM", "CONTRAST"), ("CONTRAST", "CONTRAST"), ("ENHANCED", "CONTRAST"), ("CTV", "CONTRAST"),
        ("PRE AND POST CONTRAST", "CONTRAST"), ("4cc sec 150cc D3D on", "CONTRAST"), ("POST", "CONTRAST"),
        ("BONE", "BONE_KERNEL"), ("HEAD_BONE", "BONE_KERNEL"), ("BONE2mm", "BONE_KERNEL"), ("HeadBone",
        "BONE_KERNEL"),
        ("CRANE IV+", "CONTRAST"), ("Encefalo dopo mdc", "CONTRAST"), ("Cranio c.m.d.c.", "CONTRAST"),
        ("cerebro con civ", "CONTRAST"), ("CRANE OS", "BONE_KERNEL"), ("Cranio osso 2.5", "BONE_KERNEL"),
        ("Głowa z kontrastem", "CONTRAST"), ("Mozek s kontrastem", "CONTRAST"), ("Mozek po KL", "CONTRAST"),
        ("Głowa bez i z kontrastem", "CONTRAST"), ("Koponya kontrasztos", "CONTRAST"), ("Cerebral cu contrast",
        "CONTRAST"),
        ("Hjärna med kontrast", "CONTRAST"), ("Hjerne uten og med kontrast", "CONTRAST"), ("Pää varjoaine",
        "CONTRAST"),
        ("Beyin kontrastlı", "CONTRAST"), ("Голова с контрастом", "CONTRAST"), ("Голова без и с контрастом",
        "CONTRAST"),
        ("Голова контраст", "CONTRAST"), ("Εγκέφαλος με σκιαγραφικό", "CONTRAST"), ("Kepala dengan kontras",
        "CONTRAST"),
        ("Sọ não có tiêm", "CONTRAST"), ("头颅增强", "CONTRAST"), ("头颅CTA", "CONTRAST"), ("КТ-ангиография",
        "CONTRAST"),
        ("頭部血管", "CONTRAST"), ("CTA头颈", "CONTRAST"), ("头颅BONE", "BONE_KERNEL"), ("头颅平扫+增强",
        "CONTRAST"), ("頭部造影",
        "CONTRAST"),
        ("頭部 単純＋造影", "CONTRAST"), ("頭部造影後", "CONTRAST"), ("두부 조영증강", "CONTRAST"),
        ("Głowa kości", "BONE_KERNEL"), ("okno kostne", "BONE_KERNEL"), ("Kostní okno", "BONE_KERNEL"),
        ("Голова кости", "BONE_KERNEL"), ("Koponya csont", "BONE_KERNEL"), ("Skelett 1.0", "BONE_KERNEL"),
        ("Knogle", "BONE_KERNEL"), ("Luuikkuna", "BONE_KERNEL"), ("Kemik", "BONE_KERNEL"), ("Οστικό", "BONE_KERNEL"),
        ("头颅骨窗", "BONE_KERNEL"), ("頭部骨条件", "BONE_KERNEL"), ("颅骨", "ELIGIBLE"),
        ("Schedel bot", "BONE_KERNEL"), ("Mittelgesicht", "NOT_HEAD"), ("Senos paranasales", "NOT_HEAD"),
        ("Massiccio facciale", "NOT_HEAD"), ("Rocche petrose", "NOT_HEAD"), ("Órbitas", "NOT_HEAD"),
        ("Knochen 1mm", "BONE_KERNEL"), ("PRE CONTRAST BONE", "BONE_KERNEL"), ("Head 1.0 H60s", "BONE_KERNEL"),
        ("PERFUSION", "PERFUSION"), ("rCBF", "PERFUSION"), ("CBFx", "ELIGIBLE"), ("CBF map", "PERFUSION"),
        ("SmartPrep", "BOLUS_TRACKING"),
        ("Monoenergetic 70", "SPECTRAL"), ("70 keV", "SPECTRAL"), ("VNC", "SPECTRAL"), ("Iodine map", "SPECTRAL"),
        ("MIP", "PROJECTION"), ("VRT", "PROJECTION"), ("COR MPR", "REFORMAT"), ("Sagittal", "REFORMAT"),
        ("Dose Report", "DOSE_PAGE"), ("Topogram 0.6", "LOCALIZER"), ("scout", "LOCALIZER"),
        ("CHEST 5mm", "NOT_HEAD"), ("C-SPINE", "NOT_HEAD"), ("cspine 2mm", "NOT_HEAD"), ("NECK", "NOT_HEAD"),
        ("FACIAL BONES", "NOT_HEAD"), ("SINUSES", "NOT_HEAD"), ("Abdomen", "NOT_HEAD"), ("femoral head", "NOT_HEAD"),
        ("ThorAbd", "NOT_HEAD"), ("ORBITS", "NOT_HEAD"), ("TEMPORAL BONES", "NOT_HEAD"), ("HWS", "NOT_HEAD"),
    ],
)  # fmt: skip
def test_names_that_say_what_a_series_is(description: str, code: str) -> None:
    """Beside a plain head, a description alone decides the reason code (ELIGIBLE where it says nothing)."""
    choice = judge(series(1, "Plain head"), series(2, description))
    assert number_of(choice) == 1
    assert verdict(choice, 2).reason_code == code, verdict(choice, 2).reason


@pytest.mark.parametrize(
    ("kernel", "manufacturer", "sharp"),
    [
        ("SOFT", GE, False), ("STANDARD", GE, False), ("STD+", GE, False), ("DETAIL", GE, False), ("BONE", GE, True),
        ("BONEPLUS", GE, True), ("EDGE", GE, True), ("LUNG", GE, True), ("ULTRA", GE, True), ("HD Bone", GE, True),
        ("H31s", SIEMENS, False), ("H45s", SIEMENS, False), ("J30s\\3", SIEMENS, False), ("B30f", SIEMENS, False),
        ("Hr38f\\3", SIEMENS, False), ("Qr40d", SIEMENS, False), ("H60s", SIEMENS, True), ("H70h", SIEMENS, True),
        ("B70s", SIEMENS, True), ("J70h\\2", SIEMENS, True), ("U90u", SIEMENS, True), ("Hr60f", SIEMENS, True),
        ("Hr59", SIEMENS, True), ("Br64", SIEMENS, True), ("Ur77", SIEMENS, True), ("FC21", TOSHIBA, False),
        ("FC26", TOSHIBA, False), ("FC64", TOSHIBA, False), ("FC68", TOSHIBA, False), ("FC30", TOSHIBA, True),
        ("FC35", TOSHIBA, True), ("FC81", TOSHIBA, True), ("FC52", TOSHIBA, True), ("UB", PHILIPS, False),
        ("UC", PHILIPS, False), ("B", PHILIPS, False), ("YC", PHILIPS, True), ("D", PHILIPS, True),
        ("D", "Unknown", False), ("H_SOFT_B", "UIH", False), ("H_SHARP_C", "UIH", True), ("B_VSHARP_C", "UIH", True),
    ],
)  # fmt: skip
def test_kernels_of_the_vendors(kernel: str, manufacturer: str, sharp: bool) -> None:
    """Bone, lung and edge kernels are out; brain and standard kernels, and unknown ones, stay."""
    choice = judge(series(1, None, convolution_kernel=kernel, manufacturer=manufacturer))
    assert verdict(choice, 1).reason_code == ("BONE_KERNEL" if sharp else "CHOSEN")
    assert not sharp or kernel in verdict(choice, 1).reason
    assert choice.code == ("ONLY_BONE_KERNEL" if sharp else None)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"body_part_examined": "HEAD"}, "CHOSEN"), ({"body_part_examined": "BRAIN"}, "CHOSEN"),
        ({"body_part_examined": "SKULL"}, "CHOSEN"), ({"body_part_examined": "HEADNECK"}, "CHOSEN"),
        ({"body_part_examined": "HEAD_NECK"}, "CHOSEN"), ({"body_part_examined": "UNKNOWN"}, "CHOSEN"),
        ({"body_part_examined": "CHEST"}, "NOT_HEAD"), ({"body_part_examined": "CSPINE"}, "NOT_HEAD"),
        ({"body_part_examined": "CHESTABDPELVIS"}, "NOT_HEAD"), ({"body_part_examined": "NECK"}, "NOT_HEAD"),
        ({"body_part_examined": "CHEST", "series_description": "Head 5.0 H30s"}, "CHOSEN"),
        ({"body_part_examined": "HIP", "series_description": "Femoral head"}, "NOT_HEAD"),
        ({"study_description": "CT CHEST W CONTRAST"}, "NOT_HEAD"),
        ({"study_description": "CT HEAD AND CHEST"}, "CHOSEN"),
        ({"study_description": "CT CHEST", "body_part_examined": "HEAD"}, "CHOSEN"),
        ({"study_description": "CT HEAD W/O CONTRAST"}, "CHOSEN"),
        ({"study_description": "CT HEAD W AND W/O CONTRAST"}, "CHOSEN"),
        ({"protocol_name": "5.1 CHEST ROUTINE"}, "NOT_HEAD"), ({"protocol_name": "HeadSeq"}, "CHOSEN"),
        ({"protocol_name": "AngioHead"}, "CONTRAST"),
        ({"protocol_name": "Stroke CTA", "series_description": "Head 5.0 H31s"}, "CHOSEN"),
        ({"contrast_bolus_agent": "OMNIPAQUE 350"}, "CONTRAST"), ({"contrast_bolus_agent": "APPLIED"}, "CONTRAST"),
        *(
            ({"contrast_bolus_agent": typed}, "CHOSEN")
            for typed in (
                "BRAK", "bez kontrastu", "nie", "Ne", "nincs", "INGEN", "Inget kontrastmedel", "utan", "Ei", "yok",
                "Kontrastsız", "НЕТ", "без контраста", "Όχι", "Tidak", "無", "无", "なし", "造影剤なし", "没有",
                "없음", "平扫",
            )
        ),
        *(({"contrast_bolus_agent": typed}, "CONTRAST") for typed in ("ОМНИПАК 350", "造影剤", "Jod", "Neoiopam",
        "Einjod")),
        ({"contrast_bolus_agent": "sem contraste"}, "CHOSEN"), ({"contrast_bolus_agent": "AUCUN"}, "CHOSEN"),
        ({"contrast_bolus_agent": "NONE"}, "CHOSEN"), ({"contrast_bolus_agent": "N/A"}, "CHOSEN"),
        ({"contrast_bolus_agent": "NO CONTRAST"}, "CHOSEN"), ({"contrast_bolus_agent": "W/O"}, "CHOSEN"),
        ({"contrast_bolus_agent": "Oral"}, "CHOSEN"), ({"contrast_bolus_agent": "ORAL & IV"}, "CONTRAST"),
        ({"contrast_bolus_agent": "Novolume 300"}, "CONTRAST"), ({"contrast_bolus_agent": "& NONIONIC"}, "CONTRAST"),
        ({"modality": "MR"}, "NOT_CT"), ({"sop_class_uid": SEG, "modality": "SEG"}, "NOT_CT"),
        ({"sop_class_uid": SR, "modality": "SR"}, "NOT_CT"), ({"sop_class_uid": SECONDARY_CAPTURE}, "SCREEN_SAVE"),
        ({"sop_class_uid": RT_DOSE, "modality": None}, "NOT_CT"), ({"sop_class_uid": RT_DOSE}, "NOT_CT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "LOCALIZER"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "VMI")}, "SPECTRAL"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "ADD")}, "CHOSEN"), ({"image_type": ()}, "CHOSEN"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "DERIVED"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL"), "lossy": True}, "CHOSEN"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL"), "lossy": True}, "DERIVED"),
        ({"image_type": ("DERIVED", "PRIMARY", "MPR"), "lossy": True}, "REFORMAT"),
        ({"image_type": ("DERIVED", "PRIMARY", "MPR")}, "REFORMAT"),
        ({"image_type": ("DERIVED", "SECONDARY", "MIP")}, "PROJECTION"),
        ({"image_type": ("DERIVED", "SECONDARY", "DOSE_INFO")}, "DERIVED"),
        ({"image_type": ("ORIGINAL", "SECONDARY", "OTHER")}, "SCREEN_SAVE"),
        ({"orientation_lps": SAGITTAL}, "NOT_AXIAL"), ({"orientation_lps": CORONAL}, "NOT_AXIAL"),
    ],
)  # fmt: skip
def test_what_headers_say(facts: dict[str, Any], code: str) -> None:
    """One head-like series with one header fact changed."""
    description = facts.pop("series_description", None) if "series_description" in facts else None
    found = verdict(judge(series(1, description, **facts)), 1)
    assert found.reason_code == code, found.reason


# --- studies without an exam ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([], "NO_CT"),
        ([series(1, None, modality="MR", sop_class_uid="1.2.840.10008.5.1.4.1.1.4")], "NO_CT"),
        ([localizer(1)], "ONLY_LOCALIZER"),
        ([localizer(1), series(2, "Dose Report", n=1)], "ONLY_LOCALIZER"),
        ([localizer(1), series(2, "POST CONTRAST"), series(3, "COR MPR", orientation_lps=CORONAL)], "ONLY_CONTRAST"),
        ([localizer(1), series(2, None, convolution_kernel="H70h")], "ONLY_BONE_KERNEL"),
        ([localizer(1), series(2, None, orientation_lps=CORONAL)], "ONLY_REFORMATS"),
        ([localizer(1), series(2, "Chest 5mm"), series(3, "Abdomen")], "NOT_HEAD"),
        ([series(1, "CBF"), localizer(2)], "ONLY_PERFUSION"),
        ([series(1, "70 keV")], "ONLY_SPECTRAL"),
        ([series(1, "POST CONTRAST"), series(2, "BONE")], "NO_ELIGIBLE_SERIES"),
        ([series(1, None), series(2, None, patient_digest="p2")], "MIXED_PATIENTS"),
    ],
)
def test_a_study_without_an_exam_gets_the_most_telling_code(members: list[list[InstanceFacts]], code: str) -> None:
    """One code and one sentence for the report."""
    choice = judge(*members)
    assert (choice.chosen, choice.code) == (None, code)
    assert choice.sentence is not None
    assert choice.sentence.startswith(STUDY_SENTENCES[code])
    assert not any(v.eligible or v.rank for v in choice.verdicts)


def test_every_code_of_the_shipped_rules_leads_to_a_sentence() -> None:
    """A new rule needs a study-level code."""
    codes = {rule.code for rule in RULES.exclude} - {"NOT_CT"}
    assert codes <= set(STUDY_CODE)
    assert set(STUDY_CODE.values()) <= set(STUDY_SENTENCES)


def test_several_reasons_are_counted_in_the_sentence() -> None:
    """The sentence of NO_ELIGIBLE_SERIES lists what there was."""
    choice = judge(series(1, "POST CONTRAST"), series(2, "BONE"), series(3, "CTA"))
    assert choice.sentence == "no series fits the rules (2 CONTRAST, 1 BONE_KERNEL)"


def test_instances_of_two_studies_are_refused() -> None:
    """A choice is made within one study."""
    facts = series(1, None)
    with pytest.raises(ValueError, match="one study"):
        choose([*facts, replace(facts[0], study_instance_uid="9.9")], RULES)
