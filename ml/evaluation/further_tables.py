"""Tables that the paper lacks and a reader needs: operating points, small bleeds, calibration, what else is a DSC."""

from __future__ import annotations

from ml.evaluation import paper
from ml.evaluation.answers import Answers
from ml.evaluation.metrics import calibration_error
from ml.evaluation.pixel_answers import Measure
from ml.evaluation.report import MAIN, TITLES, Place, Report
from ml.evaluation.study import ModelRole, SetRole
from ml.evaluation.tables import Cell, Row, Table, plain, printed, words

SENSITIVITY = 0.92
"""The operating point of the paper's section 3.2."""
PREVALENCES = (0.06, 0.1, 0.2, 0.4)
"""Share of exams that bleed: an emergency department (6.1 % of 1,372, Hong Kong Med J 2023), a guess between, head CTs
at large (21 %, PMC9613832), RSNA's exams (41 %, PMC10831525)."""
BANDS_ML = ((0.0, 0.5), (0.5, 1.0), (1.0, 5.0), (5.0, 25.0), (25.0, float("inf")))
"""About the 5th, 15th, 25th and 60th percentile of what bleeds in a scan of BHSD (see `ml.phantom.draw_bleeds`)."""
OURS = (ModelRole.BASELINE, ModelRole.STUDENT, ModelRole.SLICE_ORACLE, ModelRole.PIXEL_ORACLE)


def operating_points(report: Report) -> Table:
    """Sensitivity and specificity at the paper's point and at the bundle's own."""
    rows = []
    for role in MAIN:
        place = report.place(role)
        cells = [
            place.cell(lambda one: one.specificity_at(SENSITIVITY)),
            place.cell(lambda one: one.sensitivity_at(SENSITIVITY)),
            place.cell(lambda one: one.sensitivity),
            place.cell(lambda one: one.specificity),
            place.cell(lambda one: one.slice_auc),
            place.cell(lambda one: one.pixels.false_lesions_per_exam),
            place.cell(lambda one: one.pixels.false_lesions_per_free_exam),
            printed(paper.SPECIFICITY_AT_092.get(role, "--")),
        ]
        rows.append(Row(TITLES[role], tuple(cells)))
    return Table(
        "table-operating-points",
        "Operating points on the test set",
        "model",
        (
            f"specificity at sensitivity {SENSITIVITY}",
            f"sensitivity at specificity {SENSITIVITY}",
            "sensitivity of the bundle",
            "specificity of the bundle",
            "slice AUC",
            "false lesions per exam",
            "false lesions per exam without blood",
            f"paper: specificity at {SENSITIVITY}",
        ),
        tuple(rows),
        (
            "The first two find their threshold on the test set itself, as the paper does, and flatter: nobody knows "
            "it beforehand. The bundle's own threshold was set on other exams, or on none where the bundle was not "
            "calibrated (docs/evaluation.md). No point is interpolated."
        ),
    )


def predictive_values(report: Report) -> Table:
    """PPV and NPV of the bundle's operating point where fewer exams bleed than in the test set."""
    rows = []
    for role in OURS:
        place = report.place(role)
        for which, name in enumerate(("PPV", "NPV")):
            cells = [
                place.cell(lambda one, share=share, which=which: one.predictive_values(share)[which])  # type: ignore[misc]
                for share in PREVALENCES
            ]
            rows.append(Row(f"{TITLES[role]}: {name}", tuple(cells)))
    return Table(
        "table-predictive-values",
        "Predictive values at the bundle's operating point",
        "model",
        tuple(f"{share:.0%} of exams bleed" for share in PREVALENCES),
        tuple(rows),
        (
            "By Bayes from sensitivity and specificity of the test set. It supposes that bleeds are as hard to see "
            "where they are rarer, which they need not be."
        ),
    )


def by_volume(report: Report) -> Table:
    """Small bleeds apart."""
    rows = []
    for role in OURS:
        place = report.place(role)
        for low, high in BANDS_ML:

            def among(one: Answers, low: float = low, high: float = high) -> Measure:
                return one.exam_auc_among(one.within_ml(low, high))

            def found(one: Answers, low: float = low, high: float = high) -> Measure:
                return one.sensitivity_among(one.within_ml(low, high))

            def lesions(one: Answers, low: float = low, high: float = high) -> Measure:
                return one.pixels.lesion_sensitivity(low, high)

            cells = [place.cell(among), place.cell(found), place.cell(lesions)]
            counts = [cell.count for cell in cells[1:] if cell.count]
            rows.append(Row(f"{TITLES[role]}: {_band(low, high)}", (*cells, words(", ".join(counts) or "--"))))
    return Table(
        "table-small-bleeds",
        "By volume of blood",
        "model and volume",
        ("exam AUC", "sensitivity for exams", "sensitivity for lesions", "of"),
        tuple(rows),
        (
            "Exams by all blood in them, against all exams without blood; lesions by their own volume, found where the "
            "reported mask touches them. A mean over all volumes is decided by how many small bleeds a set happens to "
            "have."
        ),
    )


def dsc_table(report: Report) -> Table:
    """What else is called DSC."""
    rows = []
    for role in OURS:
        place = report.place(role)
        for reported, name in ((False, "map at the pixel threshold"), (True, "reported mask")):
            rows.append(Row(f"{TITLES[role]}: {name}", _dsc_cells(place, reported=reported)))
    return Table(
        "table-dsc",
        "Figures that are called DSC",
        "model and mask",
        ("pooled over pixels", "mean of exams with blood", "mean of images with blood", "of"),
        tuple(rows),
        (
            "Exams and images without blood have no DSC here. Counting an empty mask on an empty image as 1, as some "
            "programs do, would lift the means by as much as the set has normal images. A missed exam counts 0. The "
            "reported mask lacks small islands and is empty in exams that are called negative."
        ),
    )


def calibration(report: Report) -> Table:
    """Are scores probabilities?"""
    rows = []
    for role in OURS:
        place = report.place(role)
        error = words("--")
        if place.answers is not None:
            error = plain(calibration_error(place.answers.reliability), "", "", place.key)
        rows.append(Row(TITLES[role], (place.cell(lambda one: one.brier), error)))
    return Table(
        "table-calibration",
        "Calibration of the exam score",
        "model",
        ("Brier score", "calibration error"),
        tuple(rows),
        (
            "0.25 is a coin's Brier score. The error is the mean distance between score and share of bleeding exams "
            "over ten bins (`table-reliability`), at the set's own share of bleeding exams."
        ),
    )


def reliability(report: Report) -> Table:
    """What was said and what was."""
    rows = []
    for role in OURS:
        place = report.place(role)
        if place.answers is None:
            continue
        for one in place.answers.reliability:
            cells = [plain(one.mean_score, "", "", place.key), plain(one.share_positive, "", "", place.key)]
            if not one.count:
                cells = [words("--"), words("--")]
            rows.append(Row(f"{TITLES[role]}: {one.low:.1f} to {one.high:.1f}", (*cells, words(f"{one.count} exams"))))
    return Table(
        "table-reliability",
        "Reliability of the exam score",
        "model and bin",
        ("mean score", "share with blood", "of"),
        tuple(rows),
    )


def distributions(report: Report) -> Table:
    """What is lost between the institution of the labels and another one."""
    rows = []
    for role in OURS:
        inside, outside = report.place(role, SetRole.IN_DISTRIBUTION), report.place(role)
        cells: list[Cell] = []
        for place in (inside, outside):
            cells += [place.cell(lambda one: one.pixels.dsc), place.cell(lambda one: one.pixels.average_precision)]
            cells.append(place.cell(lambda one: one.exam_auc))
        rows.append(Row(TITLES[role], tuple(cells)))
    names = ("DSC", "pixel average precision", "exam AUC")
    return Table(
        "table-distributions",
        "In and out of distribution",
        "model",
        tuple(f"{where}: {name}" for where in ("in", "out") for name in names),
        tuple(rows),
        "The paper has no set of the labels' own institution, so its loss out of distribution is not known.",
    )


def ablations(report: Report) -> Table:
    """Every variant of the study, on the validation set."""
    rows = []
    for model in report.study.models:
        if model.role is ModelRole.ABLATION:
            place = report.place(model, SetRole.VALIDATION)
            cells = (
                place.cell(lambda one: one.pixels.dsc),
                place.cell(lambda one: one.pixels.average_precision),
                place.cell(lambda one: one.exam_auc),
            )
            rows.append(Row(f"{model.factor} = {model.value}" if model.factor else model.title, cells))
    return Table(
        "table-ablations",
        "Ablations, on the validation set",
        "variant",
        ("DSC", "pixel average precision", "exam AUC"),
        tuple(rows),
        "" if rows else "The study has none.",
    )


def _dsc_cells(place: Place, *, reported: bool) -> tuple[Cell, ...]:
    first = place.cell(lambda one: one.pixels.dsc)
    if place.answers is None or first.value is None:
        return (first, *[words("--")] * 3)
    found = place.answers.pixels.dsc_figures(reported=reported)
    figures = [plain(one, "", "", place.key) for one in (found.pooled, found.per_exam, found.per_image)]
    return (*figures, words(f"{found.exams} exams, {found.images} images with blood"))


def _band(low: float, high: float) -> str:
    if high == float("inf"):
        return f"{low:g} mL or more"
    return f"under {high:g} mL" if low == 0 else f"{low:g} to {high:g} mL"
