"""Which series of a study stands for the exam: plain, soft kernel, the whole head, thick rather than thin.

Written for CQ500, whose studies hold up to a dozen series (thin and thick, bone, contrast, reformats) named in many
ways; every series gets a reason, which goes into the report. The node's own choice (`dicom_node.eligibility`) is made
from PACS headers by a site's rules and is another one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ml.data.headers import MULTI_FRAME_CLASSES, is_localizer
from ml.data.scanning import ImageFacts
from ml.data.series import LARGEST_AXIAL_TILT_DEGREES, SAME_POSITION_MM

WHOLE_HEAD_MM = 90.0
"""From the first to the last slice: a brain has 120 mm, and less is a part of a head."""
NEWBORN_MM = 70.0
"""Where no series of a study covers more than NEARLY of that: a newborn's brain has 80 to 90 mm."""
NEARLY = 0.9
LEAST_SLICES = 8
THICK_MM = 2.5
SAME_MM = 0.1
PLAIN = re.compile(
    r"plain|\b(non?|pre|ohne|o\.?|sans|sin|sem|s/|senza|zonder) ?([ck]on|inj|c?iv\b|km\b|m\.?d\.?c\b)"
    r"|(?<!and )(?<!\bw[ /])(without|\bw/?o\b)|\bunenhanced|\bncct\b|\bnativ|\bs\.?m\.?d\.?c\b"
    r"|\b(bez|brez|fara|utan|uten|uden|ilman|без|χωρις|tanpa|khong)\b(?! (i|a|и|och|og|ja|και) )|nelkul|kontrasts[iı]z"
    r"|\bnatyw|\bnatiiv|\bнатив|бе[сз]контраст"
    r"|平[扫掃](?!.*(增|造))|単純(?!.*造影)|[非未](造影|增强)|造影(なし|前)|비조영|조영 ?전"
)
CONTRAST = re.compile(
    r"post[ -]?con|contrast|\bc\+|\bcect\b|enhanced|angio|\bcta\b|\bcc sec\b|\d+ ?cc\b|venogra"
    r"|kontrast|\bkm\b|\bm\.?d\.?c\b|\binje[ck]t|\biv ?\+|\bcon civ\b|arterial|venous|\bctv\b|\bdelayed"
    r"|контраст|σκιαγραφικ|\bkontras\b|varjoaine|血管|ангио|造影|增[强強]|조영|\bpo kl\b|\btiem\b"
    r"|^c( thin)?( \d)?$|\d ?mmc\b|\boral iv\b"  # folders of CQ500 have lost the plus of "C+" and "1.25 MM C+"
)
NO_AGENT = re.compile(
    r"\W*(no(n|ne|t\b.*|\b.*)?|n/?a|nil|null|0|without.*|w/?o\b.*|ohne.*|kein.*|sans.*|sin\b.*|plain|nativ\w*"
    r"|sem\b.*|senza.*|zonder.*|geen.*|aucun.*|nessun.*|ningun.*|nenhum.*|unenhanced|oral( only)?|p\.?o\.?"
    r"|bez.*|brez.*|brak.*|nie|ne|nem|nincs.*|fara.*|utan.*|uten.*|uden.*|ing(en|et).*|ei|ilman.*|yok|kontrasts[iı]z.*"
    r"|без.*|нет.*|οχι|χωρις.*|tidak.*|tanpa.*|khong.*|[无無].*|没有|.*(なし|無し)|非造影|平[扫掃]|없음|비조영)\W*"
)
"""What is typed as Contrast/Bolus Agent for "none", and contrast medium that never reaches the head."""
BONE = re.compile(
    r"bone|\bbony|\bosteo|knochen|\bosseu|\bos(so)?\b|hueso|\bose[ao]\b|\bbot\b|\bsharp\b|\blung\b|\bkos(c|ci|t|ti|tn\w*)\b"
    r"|\bкост(ь|и|ей|н)|\bcsont|\bosos|skelett|knogle|\bluu|\bkemik|\bοστ|\btulang\b|\bxuong\b|骨(窗|算法|重建|条件|関数)"
)
EAST_ASIAN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
SCRIPTS_MEET = re.compile(rf"(?<={EAST_ASIAN})(?=[a-z])|(?<=[a-z])(?={EAST_ASIAN})")
"""Kana, Han and Hangul are written without blanks: "头颅CTA"."""
OTHER = re.compile(
    r"\bd3d\b|\b3d\b|\bmip\b|\bmpr\b|perfusion|\bcor\b|\b[ck]orona[lr]|\bsag\b|\bsagit|scout|surview|topogram|spine"
    r"|\b(mid)?face\b|\bfac(c?i)al|gesicht|aangezicht|\bpns\b|\bnnh\b|paranasal|\bsinus|\borbit(al?|as|e[ns]?|s)?\b"
    r"|felsenbein|rocher|petros|\bhws\b|\biacs?\b"
    r"|dose ?(report|info|record|summary|page|sheet)"
)
BONE_KERNEL = re.compile(
    r"bone|edge|lung|sharp|detail|^ultra|^inner ?ear"
    r"|^[bdhijqsu][6-9]\d|^[bhiqu][a-z](59|[6-9]\d)|^fc ?[358]\d|^y[a-e]$"  # Siemens, old and new; Canon; Philips
)
NOT_AXIAL_TYPES = frozenset(["LOCALIZER", "MIP", "MPR", "SCREEN SAVE", "PROJECTION IMAGE"])


@dataclass(frozen=True)
class Series:
    """One series of a study, summed up from its headers."""

    name: str
    """For the report: the folder's name or the Series Instance UID."""
    description: str
    images: tuple[ImageFacts, ...]

    @property
    def offsets_mm(self) -> list[float]:
        """Sorted positions, one for each place."""
        offsets = sorted(one.offset_mm for one in self.images if one.offset_mm is not None)
        return [offset for n, offset in enumerate(offsets) if n == 0 or offset - offsets[n - 1] > SAME_POSITION_MM]

    @property
    def coverage_mm(self) -> float:
        """From the first to the last slice."""
        return self.offsets_mm[-1] - self.offsets_mm[0] if self.offsets_mm else 0.0

    @property
    def thickness_mm(self) -> float:
        """Median slice thickness; where headers do not tell, the distance of slices."""
        told = [one.thickness_mm for one in self.images if one.thickness_mm is not None]
        if told:
            return float(np.median(told))
        return float(np.median(np.diff(self.offsets_mm))) if len(self.offsets_mm) > 1 else 0.0

    @property
    def kinds_of_thickness(self) -> int:
        """More than one: acquisitions are mixed, or the protocol has zones."""
        return len({round(one.thickness_mm, 1) for one in self.images if one.thickness_mm is not None})


def series_of(name: str, images: Sequence[ImageFacts], description: str | None = None) -> Series:
    """Of the images of one series, without localizers among slices (as `ml.data.headers` reads them)."""
    slices = tuple(one for one in images if not is_localizer(one.image_type))
    return Series(name, images[0].description if description is None else description, slices or tuple(images))


@dataclass(frozen=True)
class Verdict:
    """Why a series was or was not taken."""

    series: Series
    code: str
    reason: str


def choose(series: Sequence[Series]) -> tuple[Series | None, list[Verdict]]:
    """The series that stands for the exam (None: there is none), and a verdict on every other one."""
    verdicts = []
    fit = []
    widest_mm = max((one.coverage_mm for one in series), default=0.0)
    whole_mm = max(NEWBORN_MM, min(WHOLE_HEAD_MM, NEARLY * widest_mm))
    for one in series:
        problem = exclude(one, whole_mm=whole_mm)
        if problem is None:
            fit.append(one)
        else:
            verdicts.append(Verdict(one, *problem))
    fit.sort(key=_rank)
    if not fit:
        return None, verdicts
    chosen = fit[0]
    for other in fit[1:]:
        reason = f"{chosen.name} ({describe(chosen)}) stands for the exam rather than this one ({describe(other)})"
        verdicts.append(Verdict(other, "NOT_CHOSEN", reason))
    return chosen, verdicts


def exclude(series: Series, *, whole_mm: float = WHOLE_HEAD_MM) -> tuple[str, str] | None:
    """Code and reason for which a series cannot stand for an exam; None where it can."""
    return next(_problems(series, whole_mm), None)


def _problems(series: Series, whole_mm: float) -> Iterator[tuple[str, str]]:
    """The gravest first."""
    text = _text(series)
    types = {part for one in series.images for part in one.image_type}
    tilts = [one.off_axis_degrees for one in series.images if one.off_axis_degrees is not None]
    if {one.modality for one in series.images} != {"CT"}:
        yield "NOT_CT", "its images are not CT"
    if any(one.sop_class in MULTI_FRAME_CLASSES for one in series.images):
        yield "MULTI_FRAME", "multi-frame (Enhanced) CT, which is not supported"
    if types & NOT_AXIAL_TYPES or (tilts and float(np.median(tilts)) > LARGEST_AXIAL_TILT_DEGREES):
        yield "NOT_AXIAL", "a localizer or a reformat"
    named = bool(CONTRAST.search(text))
    if not PLAIN.search(text) and (named or any(_reaches_head(one.contrast) for one in series.images)):
        yield "CONTRAST", f"contrast medium, by its {'name' if named else 'header'}"
    if BONE.search(text) or any(BONE_KERNEL.search(one.kernel.lower()) for one in series.images):
        yield "BONE_KERNEL", "a bone or sharp kernel"
    if OTHER.search(text):
        yield "DERIVED", "a reformat, a rendering or another part of the body, by its name"
    if len(series.offsets_mm) < LEAST_SLICES:
        yield "TOO_FEW_SLICES", f"{len(series.offsets_mm)} slices at different places"
    if series.coverage_mm < whole_mm:
        yield "PARTIAL_HEAD", f"it covers {series.coverage_mm:.0f} mm, not a whole head"


def describe(series: Series) -> str:
    """For people."""
    return f"{len(series.offsets_mm)} slices of {series.thickness_mm:.3g} mm over {series.coverage_mm:.0f} mm"


def _reaches_head(agent: str) -> bool:
    return bool(agent) and not NO_AGENT.fullmatch(_plain(agent))


def _text(series: Series) -> str:
    return re.sub(r"[_-]+", " ", _plain(series.description))


def _plain(text: str) -> str:
    """Lower case, without accents, words of two scripts apart."""
    letters = (one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    return SCRIPTS_MEET.sub(" ", unicodedata.normalize("NFC", "".join(letters).lower()))


def _rank(series: Series) -> tuple[bool, bool, bool, float, float, str]:
    """Thick first, then what is called plain before what may be anything, and one thickness before mixed ones.

    Among thick the thickest, among thin too; then coverage, name.
    """
    thickness = round(series.thickness_mm / SAME_MM) * SAME_MM
    order = (thickness < THICK_MM, not PLAIN.search(_text(series)), series.kinds_of_thickness > 2)
    return (*order, -thickness, -series.coverage_mm, series.name)
