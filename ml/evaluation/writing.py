"""A study's report on disk: each table as Markdown and CSV, each figure as PNG, and all of it on one page.

    report.md                every table and figure
    <table>.md, <table>.csv  one table; the CSV has a line for each cell with bundle, digest, commit, command and data
    <figure>.png             ROC, precision-recall, reliability, figures 2 and 3

What could not be computed or drawn is on the page with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.errors import EvaluationError
from ml.evaluation import further_tables, paper_tables, plots, retest_table
from ml.evaluation.answers import Answers
from ml.evaluation.overlays import ChosenImage, false_alarms, panels, rescued
from ml.evaluation.records import RecordSet
from ml.evaluation.report import MAIN, TITLES, Place, Report, paired
from ml.evaluation.sources import ExamSource
from ml.evaluation.study import ModelRole, SetRole
from ml.evaluation.tables import NOT_RUN, Table, to_csv, to_markdown
from ml.files import write_atomically

MakeTable = Callable[[Report], Table]
Progress = Callable[[str], None]

TABLES: tuple[MakeTable, ...] = (
    paper_tables.table_1,
    paper_tables.table_1_statistics,
    paper_tables.intervals,
    paper_tables.table_2,
    paper_tables.table_3,
    retest_table.table_4,
    paper_tables.supplemental,
    further_tables.operating_points,
    further_tables.predictive_values,
    further_tables.by_volume,
    further_tables.dsc_table,
    further_tables.calibration,
    further_tables.reliability,
    further_tables.distributions,
    further_tables.ablations,
)
IMAGES = 2
"""Of each kind in figures 2 and 3, as in the paper."""


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn, or why not."""

    name: str
    caption: str
    reason: str = ""


Draw = Callable[[Report, Path], Drawn]


def write_report(study_folder: Path, out: Path, progress: Progress, *, known: Sequence[ExamSource] = ()) -> Path:
    """Everything; returns report.md. `progress` is told the name of each table and figure when it is written.

    `known` are sources whose images figures 2 and 3 may show; simulated ones need not be named.
    Raises EvaluationError where the folder is no study or a record is damaged.
    """
    report = Report(study_folder, known)
    out.mkdir(parents=True, exist_ok=True)
    study = report.study
    page = [f"# {study.title}", "", study.data, ""]
    page += [f"Made by `{study.command}` at commit {study.commit} on {study.machine}.", ""]
    if study.seconds is not None:
        page += [f"It took {study.seconds / 60:.0f} minutes.", ""]
    for make in TABLES:
        table = make(report)
        markdown = to_markdown(table, data=study.data, traces=report.traces)
        write_atomically(out / f"{table.name}.md", markdown.encode())
        write_atomically(out / f"{table.name}.csv", to_csv(table, traces=report.traces).encode())
        page += ["#" + markdown.replace(f"\n\n{study.data}\n", "\n", 1)]
        progress(table.name)
    for draw in FIGURES:
        figure = draw(report, out)
        page += [f"## {figure.name}", "", figure.caption if not figure.reason else f"Not drawn: {figure.reason}.", ""]
        if not figure.reason:
            page += [f"![{figure.name}]({figure.name}.png)", ""]
        progress(figure.name)
    write_atomically(out / "report.md", "\n".join(page).encode())
    return out / "report.md"


def _curve(name: str, title: str, draw: Callable[..., None], *, usable: Callable[[Answers], object]) -> Draw:
    def make(report: Report, out: Path) -> Drawn:
        models: dict[str, Answers] = {}
        for role in MAIN:
            answers = report.place(role).answers
            if answers is not None and _can(usable, answers):
                models[TITLES[role]] = answers
        if not models:
            return Drawn(name, "", f"{NOT_RUN}: {report.place(ModelRole.BASELINE).reason or 'no labels for it'}")
        draw(models, out / f"{name}.png", title=title)
        return Drawn(name, f"{title}: {', '.join(models)}.")

    return make


def _can(usable: Callable[[Answers], object], answers: Answers) -> bool:
    try:
        usable(answers)
    except (EvaluationError, ValueError):
        return False
    return True


def _figure_2(report: Report, out: Path) -> Drawn:
    """False alarms that are frequent without the ranker."""
    worse = report.place(ModelRole.NO_RANKER, SetRole.VALIDATION)
    better = report.place(ModelRole.RANKED_ONCE, SetRole.VALIDATION)
    return _images(
        "figure-2",
        "Figure 2. False alarms without the ranker (left) that it prevents",
        (worse, better),
        (TITLES[ModelRole.NO_RANKER], TITLES[ModelRole.RANKED_ONCE]),
        lambda one, other: false_alarms(one, other, 2 * IMAGES),
        report,
        out,
    )


def _figure_3(report: Report, out: Path) -> Drawn:
    """What the student does that the baseline does not."""
    worse = report.place(ModelRole.BASELINE, SetRole.VALIDATION)
    better = report.place(ModelRole.STUDENT, SetRole.VALIDATION)
    return _images(
        "figure-3",
        "Figure 3. Baseline and student",
        (worse, better),
        (TITLES[ModelRole.BASELINE], TITLES[ModelRole.STUDENT]),
        lambda one, other: [*false_alarms(one, other, IMAGES), *rescued(one, other, IMAGES)],
        report,
        out,
    )


def _images(
    name: str,
    caption: str,
    places: tuple[Place, Place],
    titles: tuple[str, str],
    choose: Callable[[RecordSet, RecordSet], list[ChosenImage]],
    report: Report,
    out: Path,
) -> Drawn:
    worse, better = places
    both = paired(worse, better)
    if isinstance(both, str):
        return Drawn(name, "", both)
    records = {title: answers.records for title, answers in zip(titles, both, strict=True)}
    try:
        chosen = choose(*records.values())
        if not chosen:
            return Drawn(name, "", "the two models differ on no image")
        plots.draw_panels(panels(chosen, records, known=report.known), out / f"{name}.png", title=caption)
    except EvaluationError as error:
        return Drawn(name, "", str(error))
    reasons = "; ".join(f"exam {one.exam}, image {one.z + 1}, {one.why}" for one in chosen)
    return Drawn(
        name,
        f"{caption}. Red: truth; green: answer at the pixel threshold; yellow: both. Chosen for what differs most: "
        f"they show what changed, not how often. {reasons}. From `{worse.key}` and `{better.key}`.",
    )


FIGURES: tuple[Draw, ...] = (
    _figure_2,
    _figure_3,
    _curve("figure-roc", "ROC of exams, test set", plots.draw_roc, usable=lambda one: one.specificity_at(0.5)),
    _curve(
        "figure-precision-recall",
        "Precision and recall of pixels, test set",
        plots.draw_precision_recall,
        usable=lambda one: one.pixels.average_precision,
    ),
    _curve(
        "figure-reliability",
        "Reliability of the exam score, test set",
        plots.draw_reliability,
        usable=lambda one: one.called,
    ),
)
