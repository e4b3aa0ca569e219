"""Realistic studies of the four big vendors and of public data sets, and what must hold for any study."""

from __future__ import annotations

import math
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.eligibility import choose, explain
from dicom_node.facts import InstanceFacts
from dicom_node.read_facts import facts_of_file
from dicom_node.rules import EligibilityRules, Exclusion
from dicom_node.rules_trial import choose_in
from tests.dicom_node.header_facts import (
    CORONAL,
    ENHANCED_CT,
    GE,
    ORIGINAL,
    PHILIPS,
    RULES,
    SAGITTAL,
    SECONDARY_CAPTURE,
    SIEMENS,
    TOSHIBA,
    judge,
    localizer,
    number_of,
    series,
    verdict,
)
from tests.peers.presence import need
from tests.real_heads import ge_files

# --- whole studies of the vendors -------------------------------------------------------------------------------------
STUDIES: dict[str, tuple[int | None, list[list[InstanceFacts]]]] = {
    "GE trauma head": (2, [
        localizer(1, manufacturer=GE),
        series(2, "AXIAL STD 5MM", convolution_kernel="STANDARD", manufacturer=GE, body_part_examined="HEAD"),
        series(3, "BONE 2.5", convolution_kernel="BONEPLUS", manufacturer=GE, thickness=2.5, n=64),
        series(4, "AX THIN 0.625", convolution_kernel="SOFT", manufacturer=GE, thickness=0.625, n=256),
        series(5, "COR 3MM", convolution_kernel="STANDARD", thickness=3.0, orientation_lps=CORONAL, n=60,
               image_type=("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE")),
        series(999, "Dose Report", sop_class_uid=SECONDARY_CAPTURE, n=1, position_lps=None, orientation_lps=None,
               image_type=("DERIVED", "SECONDARY", "SCREEN SAVE"), slice_thickness_mm=None),
    ]),
    "Siemens stroke": (3, [
        localizer(1, description="Topogram  0.6  T20f", manufacturer=SIEMENS),
        series(2, "Head  5.0  H60s", convolution_kernel="H60s", manufacturer=SIEMENS),
        series(3, "Head  5.0  H31s", convolution_kernel="H31s", manufacturer=SIEMENS),
        series(4, "PreMonitoring", n=1, thickness=10.0, convolution_kernel="B30f"),
        series(5, "CarotidAngio  0.75  B20f", n=400, thickness=0.75, convolution_kernel="B20f",
               contrast_bolus_agent="APPLIED"),
        series(6, "VPCT Perfusion 5.0", n=30, contrast_bolus_agent="APPLIED"),
        series(501, "Patient Protocol", sop_class_uid=SECONDARY_CAPTURE, n=1),
    ]),
    "Siemens Force": (4, [
        localizer(1, description="Topogram"),
        series(2, "Head 1.0 Hr60 Q3", convolution_kernel="Hr60f\\3", thickness=1.0, n=160),
        series(3, "Head 1.0 Hr38 Q3", convolution_kernel="Hr38f\\3", thickness=1.0, n=160),
        series(4, "Head 5.0 Hr38 Q3 ax", convolution_kernel="Hr38f\\3"),
        series(5, "Head 3.0 Hr38 Q3 cor", convolution_kernel="Hr38f\\3", thickness=3.0, n=50,
               image_type=("DERIVED", "PRIMARY", "MPR"), orientation_lps=CORONAL),
        series(6, "Monoenergetic Plus 40 keV", image_type=("DERIVED", "PRIMARY", "AXIAL", "MONOENERGETIC")),
    ]),
    "Philips": (201, [
        localizer(1, description="Surview", manufacturer=PHILIPS),
        series(201, "BRAIN", convolution_kernel="UB", manufacturer=PHILIPS, thickness=4.0, n=38,
               image_type=(*ORIGINAL, "HELIX")),
        series(202, "BONE", convolution_kernel="YC", manufacturer=PHILIPS, thickness=2.0, n=76),
        series(203, "iDose thin", convolution_kernel="UB", manufacturer=PHILIPS, thickness=0.9, step=0.45, n=330),
        series(204, "Dose Info", manufacturer=PHILIPS, n=1, image_type=("DERIVED", "SECONDARY", "DOSE_INFO")),
    ]),
    "Toshiba": (2, [
        localizer(1, description="Scano", manufacturer=TOSHIBA),
        series(2, "Brain 5.0 CE-", convolution_kernel="FC26", manufacturer=TOSHIBA),
        series(3, None, convolution_kernel="FC30", manufacturer=TOSHIBA),
        series(4, None, convolution_kernel="FC81", manufacturer=TOSHIBA, thickness=1.0, n=160),
    ]),
    "CQ500 with contrast": (2, [
        series(1, "0.625mm", thickness=0.625, n=250),
        series(2, "PRE CONTRAST 5MM STD"),
        series(3, "PRE CONTRAST BONE", thickness=2.5, n=64),
        series(4, "PRE CONTRAST THIN", thickness=0.625, n=250),
        series(5, "POST CONTRAST"),
        series(6, "4cc sec 150cc D3D on", thickness=0.625, n=500),
    ]),
    "CQ500 plain": (2, [series(1, "PLAIN THIN", thickness=0.625, n=250), series(2, "Plain")]),
    "CQ500 plain with a mistyped name": (2, [
        series(1, "Thin Plain", thickness=0.625, n=250), series(2, "55mm-Plain", thickness=5.55, n=28),
        series(3, "BONE"),
    ]),
    "CQ500 thin only": (1, [series(1, "PLAIN THIN", thickness=0.625, n=250)]),
    "CQ500 contrast only": (None, [series(1, "POST CONTRAST")]),
    "RSNA": (None, [
        series(None, None, image_type=(), thickness=5.0, slice_thickness_mm=None, uid="1.2.3.77"),
    ]),
    "no descriptions at all": (3, [
        localizer(1, description=None), series(2, None, thickness=1.0, n=160), series(3, None),
        series(4, None, orientation_lps=SAGITTAL, thickness=3.0, n=50),
    ]),
    "polytrauma": (2, [
        series(1, "Thorax 5.0 B31f", study_description="Polytrauma", n=80, pixel_spacing_mm=(0.8, 0.8)),
        series(2, "Kopf 5.0 H31s", study_description="Polytrauma"),
        series(3, "HWS 2.0 B30s", study_description="Polytrauma", thickness=2.0, n=90),
    ]),
    "polytrauma without words": (2, [
        series(1, None, n=40, pixel_spacing_mm=(0.8, 0.8)), series(2, None), series(3, None, n=90),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_the_exam_of_a_realistic_study(name: str) -> None:
    """The soft, thick, plain, axial head series is chosen, and nothing where there is none."""
    expected, members = STUDIES[name]
    choice = judge(*members)
    assert number_of(choice) == expected, explain(choice)
    assert (choice.chosen is None) == (expected is None and name != "RSNA")
    assert len(choice.verdicts) == len(members)
    assert all(verdict.reason for verdict in choice.verdicts)


# --- ranking ----------------------------------------------------------------------------------------------------------
def test_a_gappy_series_loses_to_an_intact_one_but_is_chosen_when_alone() -> None:
    """So that the volume reader's refusal names the gap."""
    gappy = [f for f in series(1, "Head 5mm") if not f.sop_instance_uid.endswith(".15")]
    choice = judge(gappy, series(2, "Head 1mm", thickness=1.0, n=160))
    assert number_of(choice) == 2
    assert verdict(choice, 1).rule == "intact"
    alone = judge(gappy)
    assert number_of(alone) == 1
    assert "although slices are missing" in verdict(alone, 1).reason


def test_a_part_of_the_head_loses_to_the_whole_head() -> None:
    """A thick series of 50 mm is a repeat of some slices, not the exam."""
    choice = judge(series(1, "Head 5mm", n=11), series(2, "Head 1mm", thickness=1.0, n=160))
    assert number_of(choice) == 2
    assert "(50 against 159 mm)" in verdict(choice, 1).reason
    alone = judge(series(1, "Head 5mm", n=11))
    assert verdict(alone, 1).reason.endswith("; the best there is, although covers less than 100 mm")


def test_a_single_slice_and_a_series_without_geometry_are_chosen_when_there_is_nothing_else() -> None:
    """The volume reader says what is wrong with them."""
    assert number_of(judge(localizer(1), series(2, "Head", n=1))) == 2
    assert number_of(judge(series(1, None, position_lps=None, orientation_lps=None))) == 1
    assert number_of(judge(series(1, None, sop_class_uid=ENHANCED_CT, n=1, position_lps=None))) == 1


def test_a_repeated_scan_in_one_series_stays_eligible_but_perfusion_does_not() -> None:
    """Two images per position: two acquisitions, for the reader to name. Twenty: a dynamic scan."""
    twice = series(1, None) + [replace(f, sop_instance_uid=f"{f.sop_instance_uid}.2") for f in series(1, None)]
    assert number_of(judge(twice)) == 1
    often = [replace(f, sop_instance_uid=f"{f.sop_instance_uid}.{i}") for f in series(1, None, n=8) for i in range(20)]
    assert judge(often).code == "ONLY_PERFUSION"


def test_ge_axial_and_add_images_are_one_eligible_series() -> None:
    """AXIAL and AXIAL with ADD as the fourth value in one series."""
    low = series(1, None, thickness=4.0, n=14, image_type=(*ORIGINAL, "ADD"))
    high = series(1, None, thickness=7.0, n=14, start=59.0)
    high = [replace(f, sop_instance_uid=f"{f.sop_instance_uid}.9") for f in high]
    choice = judge([*low, *high])
    assert number_of(choice) == 1
    assert verdict(choice, 1).reason == "chosen: 4.0 to 7.0 mm axial slices, 28 slices cover 150 mm"


def test_a_stray_localizer_in_a_series_does_not_exclude_it_but_contrast_in_any_image_does() -> None:
    """Most images decide what a series is; contrast in one is one too many."""
    stray = replace(localizer(1)[0], sop_instance_uid="1.2.3.1.99")
    assert number_of(judge([*series(1, None), stray])) == 1
    enhanced = series(1, None)
    enhanced[5] = replace(enhanced[5], contrast_bolus_agent="ULTRAVIST")
    assert judge(enhanced).code == "ONLY_CONTRAST"


@pytest.mark.parametrize(
    ("degrees", "code"), [(18.5, "CHOSEN"), (30.0, "CHOSEN"), (35.0, "CHOSEN"), (45.0, "NOT_AXIAL")]
)
def test_gantry_tilt_passes(degrees: float, code: str) -> None:
    """Up to 35 degrees either way."""
    for sign in (1, -1):
        c, s = math.cos(math.radians(degrees)), sign * math.sin(math.radians(degrees))
        found = verdict(judge(series(1, None, orientation_lps=(1.0, 0.0, 0.0, 0.0, c, s))), 1)
        assert found.reason_code == code
        assert found.tilt_degrees == pytest.approx(degrees)


@pytest.mark.parametrize(
    ("worse", "better", "rule"),
    [
        (series(1, "Head", n=11), series(2, None), "covers the head"),
        (series(1, None, pixel_spacing_mm=(0.7, 0.7)), series(2, None), "field of view of a head"),
        (series(1, None, n=80), series(2, None), "length of a head"),
        (series(1, "Head", thickness=1.0, n=160), series(2, None), "thick slices"),
        (series(1, None), series(2, "Head", thickness=3.0, n=52), "names the head"),
        (series(1, None), series(2, None, body_part_examined="HEAD"), "names the head"),
        (series(1, None, convolution_kernel="DETAIL"), series(2, None, convolution_kernel="SOFT"), "soft kernel"),
        (series(1, None, thickness=3.0, n=60), series(2, None), "closest to the preferred thickness"),
        (series(1, None, step=2.5, n=50), series(2, None, n=30), "more coverage"),
        (series(1, None, n=50), series(2, None, step=2.5, n=99), "more slices"),
        (series(1, None, n=40), series(2, None, step=4.5, n=42), "more slices"),  # 195 and 184 mm: both are enough
        (series(1, None, image_type=()), series(2, None), "original"),
    ],
)
def test_each_preference_decides_where_those_before_it_do_not(
    worse: list[InstanceFacts], better: list[InstanceFacts], rule: str
) -> None:
    """Against the lower series number, which decides last."""
    choice = judge(worse, better)
    assert number_of(choice) == 2
    assert verdict(choice, 1).rule == rule


def test_ties_are_broken_by_series_number_then_uid() -> None:
    """Equal series: the lower number, a missing number last, then the lower UID."""
    assert number_of(judge(series(7, "Head"), series(5, "Head"), series(None, "Head"))) == 5
    choice = judge(series(5, "Head", uid="1.2.3.9"), series(5, "Head", uid="1.2.3.8"))
    assert choice.chosen == "1.2.3.8"
    assert "equal" in choice.verdicts[1].reason


def test_rounding_in_headers_decides_nothing() -> None:
    """4.96 and 5 mm are one thickness; images that do not name their patient are not another's."""
    choice = judge(series(1, "Head", thickness=4.96, step=5.0, patient_digest=None), series(2, "Head"))
    assert number_of(choice) == 1
    assert "equal" in verdict(choice, 2).reason


def test_thin_slices_lose_to_thick_ones_and_five_millimetres_win() -> None:
    """Ranks follow the thickness, with the figures in the sentence; 10 mm hide more than 1 mm."""
    choice = judge(*(series(n, None, thickness=t, n=int(160 / t)) for n, t in enumerate((10.0, 1.0, 3.0, 5.0, 7.0), 1)))
    assert [v.series_number for v in choice.verdicts] == [4, 3, 5, 2, 1]
    assert verdict(choice, 3).reason == (
        "eligible, but behind series 4: slice thickness further from the preferred one (3.0 against 5.0 mm)"
    )


# --- whatever comes ---------------------------------------------------------------------------------------------------
POOL = [facts for _, members in STUDIES.values() for member in members for facts in member[:6]]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(STUDIES)), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_arrival_changes_nothing(name: str, chance: random.Random, doubled: bool) -> None:
    """Any permutation, or a mapping by series, gives the same choice, verdicts and sentences."""
    facts = [f for member in STUDIES[name][1] for f in member]
    expected = choose(facts, RULES)
    shuffled = facts + facts[:10] if doubled else list(facts)
    chance.shuffle(shuffled)
    assert choose(shuffled, RULES) == expected
    by_series: dict[str, list[InstanceFacts]] = {}
    for f in shuffled:
        by_series.setdefault(f.series_instance_uid, []).append(f)
    assert choose(by_series, RULES) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(POOL), max_size=40), st.randoms(use_true_random=False))
def test_any_mixture_gets_one_verdict_per_series_and_never_fails(
    facts: list[InstanceFacts], chance: random.Random
) -> None:
    """Each series has one verdict; ranks are 1..n; there is a code exactly when nothing is chosen."""
    garbled = [replace(f, position_lps=(float("nan"), 0.0, 0.0)) if chance.random() < 0.1 else f for f in facts]
    choice = choose(garbled, RULES)
    assert sorted(v.series_instance_uid for v in choice.verdicts) == sorted({f.series_instance_uid for f in facts})
    ranks = [v.rank for v in choice.verdicts if v.eligible]
    assert ranks == list(range(1, len(ranks) + 1))
    assert (choice.chosen is None) == (not ranks) == (choice.code is not None) == (choice.sentence is not None)
    assert [v.reason_code == "CHOSEN" for v in choice.verdicts] == [v.rank == 1 for v in choice.verdicts]
    assert all(v.reason and len(v.reason) <= 512 for v in choice.verdicts)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=64), st.text(max_size=16), st.text(max_size=64))
def test_no_text_breaks_the_rules(description: str, kernel: str, agent: str) -> None:
    """Descriptions are typed by people."""
    choice = judge(series(1, description, convolution_kernel=kernel, contrast_bolus_agent=agent, n=3))
    assert len(choice.verdicts) == 1


# --- a site's own rules, the CLI's rows, the real head ----------------------------------------------------------------
def test_a_site_may_exclude_first() -> None:
    """Its rule is tried before the shipped ones, and its code stands for itself."""
    own = Exclusion(
        name="mobile scanner", code="MOBILE", reason="from the mobile scanner", manufacturer_words=("samsung*",)
    )
    choice = judge(series(1, "BONE", manufacturer="Samsung NL3000"), rules=EligibilityRules(exclude_first=(own,)))
    assert (choice.code, verdict(choice, 1).reason) == ("MOBILE", "excluded: from the mobile scanner")
    assert choice.sentence == "every series was excluded (MOBILE)"


def test_explain_gives_one_row_per_series_in_ranked_order() -> None:
    """For a table or JSON."""
    rows = explain(judge(*STUDIES["GE trauma head"][1]))
    assert [row["series"] for row in rows] == [2, 4, 1, 3, 5, 999]
    assert [row["chosen"] for row in rows] == [True, False, False, False, False, False]
    assert rows[0]["reason"] == "chosen: 5.0 mm axial slices, kernel STANDARD, 32 slices cover 155 mm"
    assert rows[0]["coverage_mm"] == 155.0
    assert rows[3]["reason"] == "excluded: a bone or sharp kernel (BONEPLUS)"


def test_the_real_head_is_chosen() -> None:
    """GE HiSpeed Dual: no description, kernel STD+, tilt 18.5 degrees, 4 then 7 mm."""
    choice = choose_in(ge_files()[0].parent, RULES)
    assert choice.verdicts[0].reason == (
        "chosen: 4.0 to 7.0 mm axial slices, kernel STD+, tilted by 18.5 degrees, 28 slices cover 144 mm"
    )


@pytest.mark.peer("dcmtk")
def test_a_head_that_was_compressed_with_loss_is_no_derived_image(tmp_path: Path) -> None:
    """DCMTK makes DERIVED of ORIGINAL; nothing else about the slices has changed."""
    need("dcmtk")
    for path in ge_files():
        subprocess.run(["dcmcjpeg", "+ee", "--bits-force-12", path, tmp_path / path.name], check=True)
    facts = facts_of_file(tmp_path / ge_files()[0].name)
    assert facts is not None
    assert facts.image_type[:2] == ("DERIVED", "PRIMARY")
    assert choose_in(tmp_path, RULES).verdicts[0].reason.startswith("chosen: 4.0 to 7.0 mm axial slices")
