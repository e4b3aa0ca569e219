"""Tables 1 to 4 and the supplemental table of the paper, with what the paper prints beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ml.errors import EvaluationError
from ml.evaluation import paper
from ml.evaluation.answers import Answers
from ml.evaluation.bootstrap import Interval, mean_interval
from ml.evaluation.comparisons import Compared, compare_average_precision, compare_dsc, compare_exam_auc
from ml.evaluation.delong import delong_auc
from ml.evaluation.pixel_answers import Measure
from ml.evaluation.report import MAIN, TITLES, Place, Report, paired
from ml.evaluation.study import ModelRole, SetRole
from ml.evaluation.tables import Cell, Row, Table, figure, p_value, plain, printed, words

PIXEL_AP = "pixel average precision"
EXAM_AUC = "exam AUC"
DSC = "DSC"
CONTRASTS = (ModelRole.CONTRAST_NONE, ModelRole.CONTRAST_POWER, ModelRole.CONTRAST_LOG, ModelRole.CONTRAST_ALL)
SUBTYPES = ("SAH", "SDH", "IPH", "EDH", "IVH")
"""The paper's order; it has no IVH, of which CQ500 has 28 exams."""
WHERE_PRINTED = 'Columns headed "paper" are what the paper prints for its own data, CQ500 and its validation set.'
Comparing = Callable[[Answers, Answers], Compared]
COMPARED: dict[str, Comparing] = {DSC: compare_dsc, PIXEL_AP: compare_average_precision, EXAM_AUC: compare_exam_auc}


def table_1(report: Report) -> Table:
    """Five models on the test set."""
    rows = []
    for role in MAIN:
        place = report.place(role)
        cells = [place.cell(lambda one: one.pixels.dsc), place.cell(lambda one: one.pixels.average_precision)]
        rows.append(
            Row(TITLES[role], (*cells, place.cell(lambda one: one.exam_auc), *map(printed, paper.TABLE_1[role])))
        )
    return Table(
        "table-1",
        "Table 1. Models on the test set",
        "model",
        (DSC, PIXEL_AP, EXAM_AUC, *(f"paper: {one}" for one in (DSC, PIXEL_AP, EXAM_AUC))),
        tuple(rows),
        (
            "DSC is pooled over all pixels of the set at each bundle's own pixel threshold; `table-dsc` has the other "
            f"figures of that name. {WHERE_PRINTED}"
        ),
    )


def table_1_statistics(report: Report) -> Table:
    """Section 2.4: is the student better, and than which?"""
    rows = []
    student = report.place(ModelRole.STUDENT)
    for role in (ModelRole.BASELINE, ModelRole.SLICE_ORACLE, ModelRole.PIXEL_ORACLE):
        other = report.place(role)
        both = paired(student, other)
        for name, comparison in COMPARED.items():
            label = f"student - {TITLES[role].lower()}: {name}"
            beside = printed(paper.COMPARISONS.get((name, role), "--"))
            cells = _nothing(both) if isinstance(both, str) else _comparison_cells(both, comparison, (student, other))
            rows.append(Row(label, (*cells, beside)))
    return Table(
        "table-1-statistics",
        "Statistics of table 1",
        "difference",
        ("exams or images drawn", "sigma", "Z", "p", "p of normality", "patients drawn", "DeLong", "paper"),
        tuple(rows),
        (
            "Section 2.4: exams are drawn for the exam AUC, images for DSC and average precision, 1000 times; p is "
            "2 P(N > |Z|), of the normal distribution that the Kolmogorov-Smirnov test (p of normality) does not "
            "reject above 0.05. Images of one exam resemble each other: the interval over patients is the honest one."
        ),
    )


def intervals(report: Report) -> Table:
    """Three intervals of the same figure: why the paper's cannot be those of exams."""
    rows = []
    for role in MAIN:
        place = report.place(role)
        cells = (
            place.cell(lambda one: one.exam_auc),
            place.cell(_delong),
            place.cell(_of_the_mean),
            printed(paper.TABLE_1[role][2]),
        )
        rows.append(Row(TITLES[role], cells))
    return Table(
        "table-1-intervals",
        "Intervals of the exam AUC",
        "model",
        ("patients drawn", "DeLong", "of the replicates' mean", "paper"),
        tuple(rows),
        (
            "The third column is mean +- 1.96 sigma / sqrt(1000) of the replicates. It shrinks with every replicate "
            "and says nothing of how certain the figure is. The paper's intervals have its width; docs/evaluation.md."
        ),
    )


def table_2(report: Report) -> Table:
    """Contrast augmentation, on the validation set."""
    rows = tuple(_validation_row(report, role, paper.TABLE_2[role]) for role in CONTRASTS)
    return Table(
        "table-2",
        "Table 2. Contrast augmentation of the baseline, on the validation set",
        "contrast",
        (PIXEL_AP, EXAM_AUC, f"paper: {PIXEL_AP}", f"paper: {EXAM_AUC}"),
        rows,
        "The paper chose by pixel average precision. " + WHERE_PRINTED,
    )


def table_3(report: Report) -> Table:
    """The ranker, on the validation set."""
    roles = (ModelRole.NO_RANKER, ModelRole.RANKED_ONCE)
    return Table(
        "table-3",
        "Table 3. The ranker, on the validation set",
        "model",
        (PIXEL_AP, EXAM_AUC, f"paper: {PIXEL_AP}", f"paper: {EXAM_AUC}"),
        tuple(_validation_row(report, role, paper.TABLE_3[role]) for role in roles),
        "One teacher-student round each. " + WHERE_PRINTED,
    )


def supplemental(report: Report) -> Table:
    """Exam AUC by subtype, among exams with one subtype alone."""
    baseline, student = report.place(ModelRole.BASELINE), report.place(ModelRole.STUDENT)
    rows = []
    for subtype in SUBTYPES:

        def among(one: Answers, subtype: str = subtype) -> Measure:
            return one.exam_auc_among(one.isolated(subtype))

        cells = [baseline.cell(among), student.cell(among)]
        count = words(next((cell.count for cell in cells if cell.count), "--"))
        rows.append(Row(subtype, (*cells, count, *map(printed, paper.SUPPLEMENTAL.get(subtype, ("--", "--"))))))
    return Table(
        "table-s1",
        "Supplemental table 1. Exam AUC by subtype, isolated cases",
        "subtype",
        ("baseline", "student", "exams", "paper: baseline", "paper: student"),
        tuple(rows),
        "Exams with this subtype and no other, against all exams without blood. " + WHERE_PRINTED,
    )


def _validation_row(report: Report, role: ModelRole, beside: tuple[str, str]) -> Row:
    place = report.place(role, SetRole.VALIDATION)
    cells = (place.cell(lambda one: one.pixels.average_precision), place.cell(lambda one: one.exam_auc))
    return Row(TITLES[role], (*cells, *map(printed, beside)))


def _comparison_cells(
    both: tuple[Answers, Answers], comparison: Comparing, places: tuple[Place, Place]
) -> tuple[Cell, ...]:
    try:
        found = comparison(*both)
    except EvaluationError as error:
        return _nothing(str(error))
    keys, count, drawn = tuple(place.key for place in places), found.count, found.drawn
    method = "95 % percentiles of 1000 replicates by exam or image (paper, section 2.4)"
    cells = [
        figure(Measure(drawn.difference, drawn.interval, count, method), *keys),
        plain(drawn.sigma, count, "", *keys),
        Cell(f"{drawn.z:.2f}", drawn.z, sources=keys),
        Cell(p_value(drawn.p), drawn.p, sources=keys),
        Cell(p_value(drawn.normality_p), drawn.normality_p, sources=keys),
        figure(Measure(drawn.difference, found.by_patient, count), *keys),
    ]
    if found.delong is None:
        return (*cells, words("--"))
    test = found.delong
    cell = figure(Measure(test.difference, Interval(test.low, test.high), count, "DeLong"), *keys)
    return (*cells, replace(cell, text=f"{cell.text}, p = {p_value(test.p)}"))


def _nothing(why: str) -> tuple[Cell, ...]:
    return (words(why), *[words("--")] * 6)


def _delong(one: Answers) -> Measure:
    found = delong_auc(one.scores, one.bleeding)
    return Measure(found.auc, Interval(found.low, found.high), one.exam_auc.count, "DeLong")


def _of_the_mean(one: Answers) -> Measure:
    method = "1.96 standard errors of the replicates' mean"
    return Measure(one.exam_auc.value, mean_interval(one.exam_auc_replicates), one.exam_auc.count, method)
