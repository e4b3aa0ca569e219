"""A small study on disk: pretended networks of different worth, judged as real ones are."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ml.data.exams import LabelledExam
from ml.evaluation.judging import Answer, evaluate
from ml.evaluation.records import ExamRecord, Origin, write_published
from ml.evaluation.study import ModelRole, SetRole, Study, StudyModel, StudySet, record_folder, write_study
from ml.labels import Subtype
from ml.prediction import BundleIdentity, Prediction
from ml.volume import Volume
from tests.ml.conftest import geometry

SLICES, SIZE = 4, 24
SUBTYPES = (Subtype.IPH, Subtype.SAH, Subtype.SDH, Subtype.EDH)


@dataclass(frozen=True)
class Squares:
    """Exams of noise; in every other one a bright square, which is blood, of a size and subtype by turns."""

    name: str
    count: int

    @property
    def exams(self) -> tuple[str, ...]:
        """As many names."""
        return tuple(f"{self.name}-{number:02}" for number in range(self.count))

    def read(self, wanted: Sequence[str]) -> Iterator[LabelledExam]:
        """Two exams of a patient each."""
        for name in wanted:
            number = int(name[-2:])
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            pixels = np.zeros((SLICES, SIZE, SIZE), dtype=np.uint8)
            if number % 2 == 0:
                side = 3 + number % 7
                pixels[1:3, 5 : 5 + side, 6 : 6 + side] = SUBTYPES[number // 2 % 4]
            hu = (30 + 30 * (pixels > 0) + rng.normal(0, 8, pixels.shape)).astype(np.float32)
            volume = Volume(hu, geometry(np.arange(SLICES) * 5.0))
            yield LabelledExam("squares", name, f"patient-{number // 2}", volume, pixels)


def network(blur: float) -> Answer:
    """The brighter, the more probable; `blur` is noise on what it sees."""

    def answer(volume: Volume) -> Prediction:
        rng = np.random.default_rng(int(abs(volume.hu.sum())))
        seen = volume.hu + rng.normal(0, blur, volume.hu.shape)
        prob = (1 / (1 + np.exp(-(seen - 48) / 4))).astype(np.float32)
        slice_scores = np.sort(prob.reshape(len(prob), -1), axis=1)[:, -9:].mean(axis=1).astype(np.float32)
        mask = prob >= np.float32(0.5)
        score = float(slice_scores.mean())
        return Prediction(prob, mask, slice_scores, score, score > 0.6, BundleIdentity("pretended", "1", "0", "2.25.1"))

    return answer


BLURS = {"baseline": 14.0, "student": 6.0, "no-ranker": 12.0}


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baseline, student, a model without ranker, published scores; a pixel oracle that was not run."""
    folder = tmp_path_factory.mktemp("study")
    study = Study(
        title="Pretended study",
        data="Squares in noise; no statement on anything.",
        command="python -m ml tables --data squares",
        commit="0123456789ab",
        machine="a test",
        models=(
            StudyModel("baseline", ModelRole.BASELINE, "Baseline"),
            StudyModel("student", ModelRole.STUDENT, "Student"),
            StudyModel("no-ranker", ModelRole.NO_RANKER, "No ranker"),
            StudyModel("pixel-oracle", ModelRole.PIXEL_ORACLE, "Oracle", not_run="no time was left for it"),
            StudyModel("qure", ModelRole.QURE, "Qure.ai"),
            StudyModel("c-20", ModelRole.ABLATION, "C = 20 %", factor="C", value="20 %"),
        ),
        sets=(
            StudySet("test", SetRole.TEST, "Test"),
            StudySet("test-reading-2", SetRole.READING, "Test, second reading", reading=2),
            StudySet("test-reading-3", SetRole.READING, "Test, third reading", reading=3),
            StudySet("validation", SetRole.VALIDATION, "Validation"),
        ),
    )
    write_study(folder, study)
    for name, blur in BLURS.items():
        for set_name, count, readings in (("test", 24, 3), ("validation", 12, 1)):
            source = Squares(set_name, count)
            evaluate(
                network(blur),
                source,
                record_folder(folder, name, set_name),
                origin=_origin(name, source),
                readings=readings,
                progress=lambda _: None,
            )
    source = Squares("test", 24)
    published = replace(_origin("qure", source), bundle=None, digest=None, pixel_prob=None)
    records = [
        ExamRecord(exam.exam, exam.patient, bleeding=number % 2 == 0, exam_score=0.9 - 0.03 * number)
        for number, exam in enumerate(source.read(source.exams))
    ]
    write_published(record_folder(folder, "qure", "test"), published, records)
    return folder


def _origin(name: str, source: Squares) -> Origin:
    return Origin(
        model=name,
        data=source.name,
        exams=source.exams,
        commit="0123456789ab",
        command=f"python -m ml evaluate {name}",
        bundle=f"{name} 1",
        digest=zlib.crc32(name.encode()).to_bytes(4).hex() * 8,
        pixel_prob=0.5,
        exam_threshold=0.6,
        least_lesion_ml=0.0,
    )
