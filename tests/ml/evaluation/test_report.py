"""Tables from records: their arithmetic, their traces, and what they say of what was not run."""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from ml.data.exams import LabelledExam
from ml.errors import EvaluationError
from ml.evaluation import further_tables, paper_tables, plots, retest_table
from ml.evaluation.answers import Answers
from ml.evaluation.bootstrap import draw_weights, specificity_replicates
from ml.evaluation.comparisons import compare_exam_auc
from ml.evaluation.judging import evaluate
from ml.evaluation.metrics import dsc, specificity_at
from ml.evaluation.pixel_answers import FloatArray, Measure
from ml.evaluation.pixels import PixelHistogram
from ml.evaluation.report import Report
from ml.evaluation.study import ModelRole, SetRole, StudyModel, read_study, write_study
from ml.evaluation.tables import Cell, Table
from ml.evaluation.writing import FIGURES, TABLES, write_report
from ml.labels import Subtype, is_blood
from tests.ml.evaluation.conftest import BLURS, Squares, network


class Shifted(Squares):
    """The same names; the blood lies a slice higher."""

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """See ExamSource."""
        for exam in super().read(wanted):
            assert exam.pixels is not None
            yield replace(exam, pixels=np.roll(exam.pixels, 1, axis=0))


@pytest.fixture(scope="module")
def report(study_folder: Path) -> Report:
    """Read once."""
    return Report(study_folder)


def cell(table: Table, row: str, column: str) -> Cell:
    """By its names."""
    (found,) = [one for one in table.rows if one.label == row]
    return found.cells[table.columns.index(column)]


def test_table_1_is_what_scikit_learn_computes_from_the_same_exams(report: Report) -> None:
    """Exam AUC, pixel average precision and pooled DSC, from the exams themselves."""
    answer = network(BLURS["baseline"])
    exams = list(Squares("test", 24).read(Squares("test", 24).exams))
    predictions = [answer(exam.volume) for exam in exams]
    truths = [is_blood(exam.pixels) for exam in exams if exam.pixels is not None]
    table = paper_tables.table_1(report)
    exam_auc = roc_auc_score([one.any() for one in truths], [one.exam_score for one in predictions])
    assert cell(table, "Baseline", "exam AUC").value == pytest.approx(exam_auc)
    every_prob, every_truth = np.stack([one.prob for one in predictions]), np.stack(truths)
    precision = average_precision_score(every_truth.ravel(), every_prob.ravel())
    assert cell(table, "Baseline", "pixel average precision").value == pytest.approx(precision, abs=1e-4)
    assert cell(table, "Baseline", "DSC").value == pytest.approx(dsc(every_prob >= 0.5, every_truth))
    assert cell(table, "Baseline", "paper: exam AUC").text == "0.907 [0.906, 0.908]"


def test_replicates_of_average_precision_are_those_of_drawn_patients(report: Report) -> None:
    """Merged bins cost less than what a replicate varies by."""
    answers = report.place(ModelRole.BASELINE).answers
    assert answers is not None
    answer = network(BLURS["baseline"])
    exams = list(Squares("test", 24).read(Squares("test", 24).exams))
    probs = [answer(exam.volume).prob.ravel() for exam in exams]
    truths = [is_blood(exam.pixels).ravel() for exam in exams if exam.pixels is not None]
    weights = draw_weights([exam.patient for exam in exams], replicates=5)
    found = answers.pixels.average_precision_replicates(weights)
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(24), row.astype(int))
        exact = average_precision_score(
            np.concatenate([truths[one] for one in drawn]), np.concatenate([probs[one] for one in drawn])
        )
        assert value == pytest.approx(exact, abs=3e-3)
    images = draw_weights([str(one) for one in range(96)], replicates=3, seed=1)
    by_image = answers.pixels.average_precision_replicates(images)
    flat_probs, flat_truths = np.concatenate(probs).reshape(96, -1), np.concatenate(truths).reshape(96, -1)
    for row, value in zip(images, by_image, strict=True):
        drawn = np.repeat(np.arange(96), row.astype(int))
        exact = average_precision_score(flat_truths[drawn].ravel(), flat_probs[drawn].ravel())
        assert value == pytest.approx(exact, abs=3e-3)


def test_operating_points_are_found_anew_in_each_replicate() -> None:
    """By a loop over repeated exams."""
    rng = np.random.default_rng(3)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(positive * 1.0, 1.0), 1)
    weights = draw_weights([str(one) for one in range(60)], replicates=30)
    found = specificity_replicates(weights, scores, positive, sensitivity=0.92)
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(60), row.astype(int))
        assert value == pytest.approx(specificity_at(0.92, scores[drawn], positive[drawn]))


def test_the_reverse_point_has_its_interval_around_it(report: Report) -> None:
    """Sensitivity at a specificity, seen from the other side."""
    answers = report.place(ModelRole.BASELINE).answers
    assert answers is not None
    measure = answers.sensitivity_at(0.6)
    assert measure.interval is not None
    assert measure.interval.low <= measure.value <= measure.interval.high
    assert measure.interval.low < measure.interval.high


def test_isolated_cases_are_compared_with_all_bleed_free_exams(report: Report) -> None:
    """Three exams with IPH alone and twelve without blood."""
    answers = report.place(ModelRole.BASELINE).answers
    assert answers is not None
    only = [exam.subtypes == (Subtype.IPH.name,) for exam in answers.exams]
    kept = np.array(only) | ~answers.bleeding
    table = paper_tables.supplemental(report)
    found = cell(table, "IPH", "baseline")
    assert found.value == pytest.approx(roc_auc_score(answers.bleeding[kept], answers.scores[kept]))
    assert found.count == "15 exams, 3 with blood"
    assert cell(table, "IVH", "student").text == "undefined"
    assert cell(table, "SDH", "paper: student").text == "0.919"


def test_volumes_part_the_bleeding_exams(report: Report) -> None:
    """Every one in one band."""
    answers = report.place(ModelRole.STUDENT).answers
    assert answers is not None
    parts = np.array([answers.within_ml(low, high) for low, high in further_tables.BANDS_ML])
    assert np.array_equal(parts.sum(axis=0), answers.bleeding)


def test_table_4_tests_pairs_of_replicates_and_of_exams(report: Report) -> None:
    """Both paired t-tests by SciPy; each reading has truths of its own."""
    table = retest_table.table_4(report)
    baseline, student = (
        report.place(role, SetRole.READING, 2).answers for role in (ModelRole.BASELINE, ModelRole.STUDENT)
    )
    assert baseline is not None
    assert student is not None
    one, other = student.pixels.dsc_of_exams, baseline.pixels.dsc_of_exams
    kept = ~np.isnan(one)
    test = stats.ttest_rel(one[kept], other[kept])
    text = cell(table, "reading 2", "DSC: t-test over exams").text
    assert f"t = {test.statistic:.1f}" in text
    assert f"({kept.sum()} exams)" in text
    assert "(50 replicates)" in cell(table, "reading 3", "DSC: t-test over replicates").text
    dscs = {cell(table, f"reading {reading}", "DSC: student").value for reading in (1, 2, 3)}
    assert len(dscs) == 3


def test_what_was_not_run_is_said_with_the_reason_and_has_no_number(report: Report) -> None:
    """Never invented: a number has records behind it or is the paper's."""
    assert cell(paper_tables.table_1(report), "Pixel oracle", "DSC").text == "not run: no time was left for it"
    assert "no such model" in cell(paper_tables.table_2(report), "None", "exam AUC").text
    assert cell(further_tables.ablations(report), "C = 20 %", "DSC").text.startswith("not run: there are no records")
    assert "no pixel labels" in cell(paper_tables.table_1(report), "Qure.ai (published scores)", "DSC").text
    for make in TABLES:
        for row in make(report).rows:
            for one in row.cells:
                assert one.sources or one.value is None
                if one.method == "printed in the paper":
                    assert not one.sources


def test_half_a_set_is_not_run(study_folder: Path, tmp_path: Path) -> None:
    """Its figures would be of another set."""
    copy = tmp_path / "study"
    shutil.copytree(study_folder, copy)
    (copy / "student" / "test" / "exams" / "test-03.json").unlink()
    table = paper_tables.table_1(Report(copy))
    found = cell(table, "Semi-supervised (student)", "exam AUC")
    assert found.text == "not run: 23 of 24 exams of student/test are done"
    (copy / "baseline" / "test" / "exams" / "test-03.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"test-03\.json is damaged"):
        paper_tables.table_1(Report(copy))


def test_the_area_under_a_drawn_precision_recall_curve_is_the_average_precision(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a network in half precision gives most of the blood, and some of the rest, exactly 1."""
    answers = report.place(ModelRole.STUDENT).answers
    assert answers is not None
    truth = np.arange(1000) < 100
    prob = np.where(np.arange(1000) % 10 < 8, truth, 0.3).astype(np.float32)
    prob[500:510] = 1
    coarse = Answers(answers.records)
    coarse.pixels.__dict__.update(histogram=PixelHistogram.of(prob, truth), average_precision=Measure(0.5, None, ""))
    drawn: list[tuple[FloatArray, FloatArray]] = []

    def step(axes: Axes, x: FloatArray, y: FloatArray, **how: str) -> None:
        drawn.append((x, y))
        axes.plot(x, y, drawstyle=f"steps-{how['where']}", label=how["label"])

    monkeypatch.setattr(Axes, "step", step)
    plots.draw_precision_recall({"coarse": coarse}, tmp_path / "curve.png", title="a test")
    ((recall, precision),) = drawn
    assert np.diff(recall, prepend=recall[0]) @ precision == pytest.approx(average_precision_score(truth, prob))


def test_models_are_compared_on_the_same_exams_only(study_folder: Path, tmp_path: Path) -> None:
    """Pairs need partners."""
    copy = tmp_path / "study"
    shutil.copytree(study_folder, copy)
    path = copy / "student" / "test" / "origin.json"
    origin = json.loads(path.read_text())
    origin["exams"].reverse()
    path.write_text(json.dumps(origin))
    table = paper_tables.table_1_statistics(Report(copy))
    assert table.rows[0].cells[0].text == "student/test and baseline/test have different exams"


def test_exams_of_the_same_names_with_other_labels_are_no_pairs(study_folder: Path, tmp_path: Path) -> None:
    """As simulated exams of another institution or matrix are: `evaluate` names them by their seeds."""
    copy = tmp_path / "study"
    shutil.copytree(study_folder, copy)
    shutil.rmtree(copy / "student" / "test")
    pretended = Report(study_folder).place(ModelRole.STUDENT).answers
    assert pretended is not None
    other = Shifted("test", 24)
    origin = replace(pretended.records.origin, data="elsewhere")
    evaluate(network(6.0), other, copy / "student" / "test", origin=origin, progress=lambda _: None)
    report = Report(copy)
    said = "student/test and baseline/test have exams of the same names with different labels"
    assert paper_tables.table_1_statistics(report).rows[2].cells[0].text == said
    assert cell(retest_table.table_4(report), "reading 1", "DSC: t-test over exams").text == "--"


def test_a_model_against_itself_differs_by_nothing(report: Report) -> None:
    """Paired replicates cancel."""
    answers = report.place(ModelRole.STUDENT).answers
    assert answers is not None
    same = compare_exam_auc(answers, Answers(answers.records))
    assert (same.drawn.difference, same.drawn.sigma, same.drawn.p) == (0, 0, 1)


def test_the_ranker_s_side_is_the_student_unless_another_is_named(report: Report, tmp_path: Path) -> None:
    """One round of both is what isolates the ranker."""
    assert report.place(ModelRole.RANKED_ONCE, SetRole.VALIDATION).key == "student/validation"
    study = read_study(report.folder)
    write_study(
        tmp_path, replace(study, models=(*study.models, StudyModel("once", ModelRole.RANKED_ONCE, "One round")))
    )
    assert Report(tmp_path).place(ModelRole.RANKED_ONCE, SetRole.VALIDATION).key == "once/validation"


def test_the_report_is_written_with_a_trace_for_each_number(study_folder: Path, tmp_path: Path) -> None:
    """CSV lines of measured figures name bundle, digest, commit, command and data; the page holds every table."""
    told = list[str]()
    page = write_report(study_folder, tmp_path / "report", told.append).read_text()
    assert len(told) == len(TABLES) + len(FIGURES)
    names = [one for one in told if one.startswith("table")]
    for name in names:
        with (tmp_path / "report" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        markdown = (tmp_path / "report" / f"{name}.md").read_text()
        for row in rows:
            if row["value"]:
                assert row["digest"] or row["records"] == "qure/test"
                assert row["commit"].split("; ")[0] == "0123456789ab"
                assert row["command"].startswith("python -m ml evaluate")
                assert row["text"] in markdown
                assert row["text"] in page
    for figure in ("figure-roc", "figure-precision-recall", "figure-reliability"):
        assert (tmp_path / "report" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{figure}.png" in page
    assert "Not drawn: the images of validation are not kept in records" in page


def test_images_of_a_known_set_are_shown(study_folder: Path, tmp_path: Path) -> None:
    """Whoever has the data set at hand names it."""
    page = write_report(study_folder, tmp_path, lambda _: None, known=[Squares("validation", 12)]).read_text()
    for figure in ("figure-2", "figure-3"):
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"![{figure}]" in page
    assert "Chosen for what differs most" in page


def test_a_study_without_records_gives_a_report_without_numbers(tmp_path: Path, study_folder: Path) -> None:
    """From study.json alone: every cell not run, no figure drawn."""
    write_study(tmp_path / "empty", replace(read_study(study_folder), seconds=90.0))
    page = write_report(tmp_path / "empty", tmp_path / "report", lambda _: None).read_text()
    assert "not run: there are no records in baseline/test" in page
    assert not list((tmp_path / "report").glob("*.png"))
    with (tmp_path / "report" / "table-1.csv").open() as file:
        assert not any(row["value"] for row in csv.DictReader(file))
