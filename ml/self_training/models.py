"""The models of section 2.3 and 3.4, by what they learn from beside the labelled exams. One loop trains them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ml.data.shards import ExamShard
from ml.errors import DataError
from ml.self_training.ranker import RankerConfig, rank
from ml.self_training.scores import ScoreStore
from ml.self_training.targets import PixelThresholds, PseudoLabels, soft_everywhere, soft_where_positive
from ml.training.targets import LABELS, ImageLabels, Pool


class Model(StrEnum):
    """What a model is trained on."""

    BASELINE = "baseline"
    """The labelled exams alone; it is the teacher too."""
    STUDENT = "student"
    """SS: labelled exams, and pseudo-labels that the ranker kept."""
    NO_RANKER = "no-ranker"
    """As the student, but every slice has the teacher's pixels (section 3.4)."""
    SLICE_ORACLE = "slice-oracle"
    """Labelled exams, and whole images with their reference label; no pixel loss there."""
    PIXEL_ORACLE = "pixel-oracle"
    """Labelled exams, and the teacher's pixels where the reference label of the image is positive, 0 elsewhere."""

    @property
    def needs_scores(self) -> bool:
        """Whether a teacher has to look at the corpus first."""
        return self in (Model.STUDENT, Model.NO_RANKER, Model.PIXEL_ORACLE)


@dataclass(frozen=True)
class SelfTraining:
    """How pseudo-labels are made; defaults are the paper's."""

    ranker: RankerConfig = field(default_factory=RankerConfig)
    thresholds: PixelThresholds = field(default_factory=PixelThresholds)
    rounds: int = 1
    """Teacher-student rounds: in each further one the student of the last is the teacher. The paper has one."""


def make_pools(
    model: Model,
    labelled: Sequence[ExamShard],
    corpus: Sequence[ExamShard],
    store: ScoreStore | None,
    config: SelfTraining,
) -> list[Pool]:
    """What a model is trained on. `store`: the teacher's scores of the corpus, where the model needs them.

    Raises:
        DataError: there are no scores, or they are of other images than the corpus now has.
    """
    pools = [Pool(labelled, LABELS)]
    if model is Model.BASELINE:
        return pools
    if model is Model.SLICE_ORACLE:
        return [*pools, Pool(corpus, ImageLabels(), whole=True)]
    if store is None:
        raise ValueError(f"{model} needs the teacher's scores")
    _check_images(corpus, store)
    if model is Model.STUDENT:
        rules = rank((exam.folder.name, store.slice_logits(exam.folder.name)) for exam in corpus).rules(config.ranker)
    else:
        rules = soft_everywhere(corpus) if model is Model.NO_RANKER else soft_where_positive(corpus)
    return [*pools, Pool(corpus, PseudoLabels(store, rules, config.thresholds))]


def _check_images(corpus: Sequence[ExamShard], store: ScoreStore) -> None:
    """Pixels of another grid or slice would be taken for those of the images, wherever they lie."""
    grid = store.teacher().grid
    other = [exam.exam for exam in corpus if exam.grid not in (None, grid)]
    if other:
        raise DataError(
            f"{store.folder.name} has scores of images for another network ({grid}) than those of {len(other)} exams "
            f"(exam {other[0]} is the first): let a teacher of this network score them, into another folder"
        )
    for exam in corpus:
        if len(store.slice_logits(exam.folder.name)) != len(exam.neighbours):
            raise DataError(
                f"exam {exam.exam} has other slices than {store.folder.name} has scores of: run `python -m ml "
                "pseudo-label` again, it scores what was prepared anew"
            )
