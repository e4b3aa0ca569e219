"""What `python -m ml predict` leaves in a folder.

prediction.json    exam_score, exam_positive, slice_scores by SOP Instance UID, hemorrhage_ml, bundle, series
prob.npz           prob, float32 (z, y, x) on the grid of the images; sop_instance_uids (z,) in the same order
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ml.data.dicom_folder import FoundSeries
from ml.files import write_atomically
from ml.prediction import Prediction
from ml.volume import Volume


def remove_answer(out: Path) -> None:
    """Take away an earlier answer, prediction.json first: it is not this exam's, even if this one cannot be read."""
    for name in ("prediction.json", "prob.npz"):
        (out / name).unlink(missing_ok=True)


def write_answer(out: Path, prediction: Prediction, volume: Volume, found: FoundSeries) -> dict[str, Any]:
    """Write both files into a folder without an answer, prediction.json last: where it is, the answer is whole.

    Returns what it says.
    """
    uids = volume.geometry.sop_instance_uids
    answer = {
        "exam_score": prediction.exam_score,
        "exam_positive": prediction.exam_positive,
        "slice_scores": dict(zip(uids, prediction.slice_scores.tolist(), strict=True)),
        "hemorrhage_ml": volume.volume_ml(prediction.mask),
        "bundle": {
            "name": prediction.bundle.name,
            "version": prediction.bundle.version,
            "digest": prediction.bundle.digest,
        },
        "series": {
            "series_instance_uid": found.series_instance_uid,
            "reason": found.reason,
            "left_out": [asdict(one) for one in found.left_out],
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, prob=prediction.prob, sop_instance_uids=np.array(uids))
    write_atomically(out / "prob.npz", buffer.getvalue())
    write_atomically(out / "prediction.json", (json.dumps(answer, indent=2) + "\n").encode())
    return answer
