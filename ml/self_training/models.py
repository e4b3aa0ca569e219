"""The models of section 2.3 and 3.4, by what they learn from beside the labelled exams. One loop trains them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ml.data.shards import ExamShard
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
    """What a model is trained on. `store`: the teacher's scores of the corpus, where the model needs them."""
    pools = [Pool(labelled, LABELS)]
    if model is Model.BASELINE:
        return pools
    if model is Model.SLICE_ORACLE:
        return [*pools, Pool(corpus, ImageLabels(), whole=True)]
    if store is None:
        raise ValueError(f"{model} needs the teacher's scores")
    if model is Model.STUDENT:
        rules = rank((exam.folder.name, store.slice_probs(exam.folder.name)) for exam in corpus).rules(config.ranker)
    else:
        rules = soft_everywhere(corpus) if model is Model.NO_RANKER else soft_where_positive(corpus)
    return [*pools, Pool(corpus, PseudoLabels(store, rules, config.thresholds))]
