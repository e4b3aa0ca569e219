"""Which of many series stands for an exam, by what their headers and names say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import EnhancedCTImageStorage

from ml.data.choice import Series, choose, exclude
from ml.data.scanning import ImageFacts


def series(
    description: str,
    *,
    slices: int = 30,
    step_mm: float = 5.0,
    kernel: str = "",
    contrast: str = "",
    thickness_mm: float | tuple[float, ...] | None = None,
    degrees: float = 0.0,
    twice: bool = False,
    types: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    modality: str = "CT",
) -> Series:
    """A series as `ml.data.scanning` sums it up; thicknesses take turns; `twice`: every place has two images."""
    thicknesses = thickness_mm if isinstance(thickness_mm, tuple) else (thickness_mm,)
    images = tuple(
        ImageFacts(
            Path(f"{z}.dcm"),
            modality=modality,
            image_type=types,
            kernel=kernel,
            contrast=contrast,
            thickness_mm=thicknesses[z % len(thicknesses)],
            offset_mm=z // (1 + twice) * step_mm,
            off_axis_degrees=degrees,
        )
        for z in range(slices)
    )
    return Series(description, description, images)


PLAIN_ELSEWHERE = (
    "Głowa bez kontrastu", "Hlava nativně", "Koponya kontraszt nélkül", "Cerebral fără contrast",
    "Hjärna utan kontrast",
    "Hjerne uten kontrast", "Aivot ilman varjoainetta", "Pään natiivi", "Beyin kontrastsız", "Голова без контраста",
    "Εγκέφαλος χωρίς σκιαγραφικό", "Kepala tanpa kontras", "Sọ não không tiêm", "头颅平扫", "頭部単純", "頭部造影前",
    "뇌 비조영",
)  # fmt: skip
CONTRAST_ELSEWHERE = (
    "Głowa z kontrastem", "Głowa bez i z kontrastem", "Mozek po KL", "Hjerne uten og med kontrast", "Pää varjoaine",
    "Голова с контрастом", "Голова без и с контрастом", "Εγκέφαλος με σκιαγραφικό", "Kepala dengan kontras",
    "Sọ não có tiêm", "头颅CTA", "КТ-ангиография", "头颅平扫+增强", "頭部 単純+造影", "頭部造影", "두부 조영증강",
)  # fmt: skip


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Plain THIN", "Plain", "POST CONTRAST", "BONE"], "Plain"),
        (["PRE CONTRAST BONE", "PRE CONTRAST 5MM STD", "PRE CONTRAST THIN"], "PRE CONTRAST 5MM STD"),
        (["4cc sec 150cc D3D on", "55mm-Plain", "2.55mm"], "55mm-Plain"),
        (["Thin Plain"], "Thin Plain"),
        (["Plain-2", "Plain 3mm"], "Plain-2"),
        (["C", "C THIN", "DE", "DE THIN", "PLAIN THIN", "Plain"], "Plain"),
        (["1.25 MMC", "1.25", "C", "C THIN", "PLAIN THIN", "Plain"], "Plain"),
        (["C", "C-2", "C THIN", "C THIN-2", "PLAIN THIN"], "PLAIN THIN"),
        (["5 MM", "55mm Plain", "Thin Details"], "55mm Plain"),
        (["I To S", "PRE CONTRAST 5MM STD", "PRE CONTRAST THIN"], "PRE CONTRAST 5MM STD"),
    ],
)
def test_thick_plain_soft_series_are_taken(names: list[str], wanted: str) -> None:
    """Names of CQ500; a thin series only where there is nothing else."""
    sizes = {"thin": (200, 0.625), "0.625": (200, 0.625), "1.25": (100, 1.25), "2.55": (60, 2.55), "3mm": (48, 3.0)}
    made = []
    for name in names:
        slices, step = next((size for word, size in sizes.items() if word in name.lower()), (30, 5.0))
        made.append(series(name, slices=slices, step_mm=step))
    chosen, verdicts = choose(made)
    assert chosen is not None
    assert chosen.name == wanted
    assert len(verdicts) == len(names) - 1
    assert all(verdict.reason for verdict in verdicts)


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (series("POST CONTRAST"), "CONTRAST"),
        (series("HEAD", contrast="OMNIPAQUE"), "CONTRAST"),
        *((series(name), "CONTRAST") for name in ("C", "C-2", "C THIN", "C THIN-2", "C+", "ORAL IV", "1.25 MMC")),
        *((series(name), None) for name in ("C-", "C- HEAD", "CRANE", "DE HEAD", "CT HEAD")),
        *((series(name), None) for name in ("NO CONTRAST HEAD", "Head no IV contrast", "Crane sans contraste")),
        *((series("HEAD", contrast=typed), None) for typed in ("NONE", "No", "0", "N/A", "without", "ORAL ONLY")),
        (series("HEAD", contrast="NONIONIC"), "CONTRAST"),
        (series("NOTE CONTRAST"), "CONTRAST"),
        (series("PLAIN", contrast="OMNIPAQUE"), None),
        (series("NON-CONTRAST HEAD"), None),
        *((series(name), None) for name in ("Kopf o. KM", "CCT nativ", "Crane sans injection", "Cranio s.m.d.c.")),
        *((series(name), None) for name in ("Crânio sem contraste", "Crâneo s/ contraste", "Schedel blanco")),
        *((series(name), "CONTRAST") for name in ("Kopf mit KM", "cCT m. KM", "Crâne injecté", "CRANE IV+", "CTV")),
        *((series(name), "CONTRAST") for name in ("Cranio c.m.d.c.", "Encefalo con mdc", "W/WO CONTRAST")),
        (series("HEAD WITH AND WITHOUT CONTRAST"), "CONTRAST"),
        *((series(name), "BONE_KERNEL") for name in ("Knochenfenster", "Crane os", "Hueso 1mm", "Osso", "Bony")),
        *((series(name), None) for name in ("Brain surface 5mm", "Interface", "Cortex", "Correction", "Orbitomeatal")),
        *((series(name), "DERIVED") for name in ("Face", "Massif facial", "NNH", "Felsenbein re", "Coronale", "HWS")),
        (series("HEAD", contrast="SEM CONTRASTE"), None),
        *(
            (series("HEAD", contrast=typed), None)
            for typed in ("BRAK", "Ei", "Kontrastsız", "НЕТ", "Όχι", "造影剤なし", "없음")
        ),
        (series("HEAD", contrast="ОМНИПАК"), "CONTRAST"),
        *((series(name), None) for name in PLAIN_ELSEWHERE),
        *((series(name), "CONTRAST") for name in CONTRAST_ELSEWHERE),
        *(
            (series(name), "BONE_KERNEL")
            for name in ("Głowa kości", "Голова кости", "Koponya csont", "Knogle", "头颅骨窗")
        ),
        (series("HEAD", kernel="H60s"), "BONE_KERNEL"),
        *((series("HEAD", kernel=name), "BONE_KERNEL") for name in ("J70h", "Hr64f", "Br59d", "U90u", "FC51", "YA")),
        *((series("HEAD", kernel=name), None) for name in ("H31s", "J40s", "Hr38f", "Br44d", "FC26", "UB", "STANDARD")),
        (series("HEAD", kernel="BONEPLUS"), "BONE_KERNEL"),
        (series("PLAIN BONE"), "BONE_KERNEL"),
        (series("SAGITTAL MPR"), "DERIVED"),
        *((series(name), None) for name in ("HEAD LOW DOSE", "Full Dose 5mm")),
        *((series(name), "DERIVED") for name in ("Dose Report", "DOSE INFO", "DoseRecord")),
        (series("HEAD", degrees=90.0), "NOT_AXIAL"),
        (series("HEAD", degrees=29.0), None),
        (series("HEAD", kernel="Bone"), "BONE_KERNEL"),
        (series("HEAD", types=("ORIGINAL", "PRIMARY", "LOCALIZER")), "NOT_AXIAL"),
        (series("HEAD", slices=5, step_mm=25.0), "TOO_FEW_SLICES"),
        (series("HEAD", slices=18), "PARTIAL_HEAD"),
        (series("HEAD", slices=20), None),
        (series("HEAD", modality="MR"), "NOT_CT"),
    ],
)
def test_every_series_that_cannot_stand_for_an_exam_has_a_reason(one: Series, code: str | None) -> None:
    """Names go before headers where they say that there is no contrast medium."""
    problem = exclude(one)
    assert (problem[0] if problem else None) == code


@pytest.mark.parametrize(
    ("fault", "code"), [({"modality": "SR"}, "NOT_CT"), ({"sop_class": EnhancedCTImageStorage}, "MULTI_FRAME")]
)
def test_one_image_of_another_kind_spoils_a_series(fault: dict[str, Any], code: str) -> None:
    """What it shows would be lost, or read as a slice."""
    one = series("HEAD")
    problem = exclude(replace(one, images=(*one.images[1:], replace(one.images[0], **fault))))
    assert problem is not None
    assert problem[0] == code


def test_thickness_is_that_of_the_slices_not_their_distance() -> None:
    """Overlapping reconstructions: 5 mm every 2.5 mm are thick; without the tag the distance counts."""
    assert series("a", step_mm=2.5, thickness_mm=5.0).thickness_mm == 5.0
    assert series("a", step_mm=2.5).thickness_mm == 2.5


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (series("Plain", step_mm=5.0), series("Plain 3mm", slices=50, step_mm=3.0)),
        (series("3mm", slices=50, step_mm=3.0), series("Plain", slices=75, step_mm=2.0)),
        (series("Plain", slices=60, step_mm=2.5), series("5mm")),
        (series("Plain long", slices=34), series("Plain", slices=30)),
        (series("2mm", slices=75, step_mm=2.0), series("1.25", slices=120, step_mm=1.25)),
        (series("Zones", thickness_mm=(5.0, 5.1)), series("Mixed", thickness_mm=(5.0, 5.0, 5.0, 7.5, 10.0))),
    ],
    ids=["thickest", "thick before plain", "plain before thickest", "whole", "thickest of thin", "one acquisition"],
)
def test_of_two_fit_series_the_better_one_is_taken(better: Series, worse: Series) -> None:
    """In whatever order they come; the other one is told which."""
    for both in ([better, worse], [worse, better]):
        chosen, (verdict,) = choose(both)
        assert chosen is better
        assert (verdict.series, verdict.code) == (worse, "NOT_CHOSEN")
        assert better.name in verdict.reason


def test_images_at_one_place_are_one_slice() -> None:
    """A scan that was sent twice covers no more, and has no more slices."""
    doubled = series("Plain", slices=60, twice=True)
    assert doubled.offsets_mm == series("Plain", slices=30).offsets_mm
    assert doubled.thickness_mm == 5.0
    assert exclude(series("Plain", slices=14, step_mm=20.0, twice=True)) is not None


def test_a_study_without_a_fit_series_has_none() -> None:
    """CT336 of CQ500 has contrast series only."""
    chosen, verdicts = choose([series("POST CONTRAST"), series("CTA")])
    assert chosen is None
    assert [verdict.code for verdict in verdicts] == ["CONTRAST", "CONTRAST"]


@pytest.mark.parametrize(("slices", "chosen"), [((17, 18), True), ((17, 30), False), ((13, 14), False)])
def test_of_a_newborn_85_mm_are_the_whole_head(slices: tuple[int, int], chosen: bool) -> None:
    """Where another series covers no more; what is shorter than any head is a part of one."""
    found, verdicts = choose([series("HEAD", slices=slices[0]), series("BONE", slices=slices[1])])
    assert (found is not None) is chosen
    assert ("PARTIAL_HEAD" in {verdict.code for verdict in verdicts}) is not chosen
