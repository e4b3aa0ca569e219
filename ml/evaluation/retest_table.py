"""Table 4: the same predictions against three readings of the pixel labels (paper, section 2.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ml.evaluation import paper
from ml.evaluation.answers import Answers, attempt
from ml.evaluation.bootstrap import draw_weights, percentile_interval
from ml.evaluation.pixel_answers import FloatArray, Measure, pooled_dsc
from ml.evaluation.report import Place, Report, paired
from ml.evaluation.retest import REPLICATES, PairedTest, paired_t
from ml.evaluation.study import ModelRole, SetRole
from ml.evaluation.tables import Cell, Row, Table, p_value, printed, words

READINGS = (1, 2, 3)
METHOD = "95 % percentiles of 50 replicates by image (paper, section 2.5)"


@dataclass(frozen=True)
class _Figure:
    """One of the table's two figures."""

    name: str
    measure: Callable[[Answers], Measure]
    replicates: Callable[[Answers, FloatArray], FloatArray]


def _average_precision_replicates(answers: Answers, weights: FloatArray) -> FloatArray:
    return answers.pixels.average_precision_replicates(weights)


def _dsc_replicates(answers: Answers, weights: FloatArray) -> FloatArray:
    return pooled_dsc(weights, answers.pixels.image_counts)


FIGURES = (
    _Figure("pixel average precision", lambda one: one.pixels.average_precision, _average_precision_replicates),
    _Figure("DSC", lambda one: one.pixels.dsc, _dsc_replicates),
)


def table_4(report: Report) -> Table:
    """Baseline and student on each reading, and the paired tests."""
    rows = []
    for reading in READINGS:
        role = SetRole.TEST if reading == 1 else SetRole.READING
        places = [report.place(model, role, reading) for model in (ModelRole.BASELINE, ModelRole.STUDENT)]
        cells: list[Cell] = []
        for one in FIGURES:
            cells += [place.cell(lambda answers, one=one: _measured(answers, one)) for place in places]  # type: ignore[misc]
            cells.append(_test(places[0], places[1], one))
        cells.append(_over_exams(places[0], places[1]))
        rows.append(Row(f"reading {reading}", (*cells, *map(printed, paper.TABLE_4[reading]))))
    columns = [f"{one.name}: {part}" for one in FIGURES for part in ("baseline", "student", "t-test over replicates")]
    beside = [f"paper: {part} {name}" for name in ("pixel AP", "DSC") for part in ("baseline", "student")]
    return Table(
        "table-4",
        "Table 4. Test-retest study",
        "labels",
        (*columns, "DSC: t-test over exams", *beside),
        tuple(rows),
        (
            "The paper's paired t-tests are over its 50 bootstrapped samples: such a p falls with every sample that is "
            "drawn. The test over exams with blood is the one that means something. Simulated readings 2 and 3 are the "
            "simulator's truth outlined anew (`ml.evaluation.readings`), which is an assumption on how a hand wanders."
        ),
    )


def _weights(answers: Answers) -> FloatArray:
    return draw_weights([str(number) for number in range(len(answers.pixels.image_counts))], replicates=REPLICATES)


def _measured(answers: Answers, one: _Figure) -> Measure:
    measure = one.measure(answers)
    replicates = one.replicates(answers, _weights(answers))
    return Measure(measure.value, percentile_interval(replicates), measure.count, METHOD)


def _test(baseline: Place, student: Place, one: _Figure) -> Cell:
    both = paired(student, baseline)
    if isinstance(both, str):
        return words("--")
    better, worse = both
    found = attempt(lambda: one.measure(better))
    if isinstance(found, str):
        return words("--")
    weights = _weights(better)
    test = paired_t(one.replicates(better, weights), one.replicates(worse, weights))
    return _tested(test, "replicates", (student.key, baseline.key))


def _over_exams(baseline: Place, student: Place) -> Cell:
    both = paired(student, baseline)
    if isinstance(both, str) or isinstance(attempt(lambda: both[0].pixels.dsc), str):
        return words("--")
    return _tested(
        paired_t(both[0].pixels.dsc_of_exams, both[1].pixels.dsc_of_exams), "exams", (student.key, baseline.key)
    )


def _tested(test: PairedTest, pairs: str, keys: tuple[str, str]) -> Cell:
    text = f"{test.mean_difference:+.3f}, t = {test.t:.1f}, p = {p_value(test.p)} ({test.pairs} {pairs})"
    return Cell(text, test.mean_difference, count=f"{test.pairs} {pairs}", method="paired t-test", sources=keys)
