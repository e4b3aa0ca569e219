"""One job, top to bottom: claim -> series becomes exam -> predict -> results -> check -> save -> rows and outbox.

The one place where a series (DICOM's word) becomes an exam (ML's). Everything here is a function of the job's rows and
files; nothing is kept between jobs but the loaded network. Killed anywhere, the job is run again from the start and
writes the same UIDs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import structlog
from pydicom import Dataset
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from dicom_node import __version__, jobs
from dicom_node.archive import archive_error, picture_path
from dicom_node.config import Config
from dicom_node.db import is_of_the_database
from dicom_node.errors import LeaseLost, NodeError
from dicom_node.jobs import ClaimedJob, NewResult, Outcome
from dicom_node.profiles import Variant
from dicom_node.states import JobState
from dicom_node.tables import PICTURE
from ml.data.series import read_volume
from ml.errors import MlError, UnreadableStudy
from ml.inference.lesions import find_lesions
from worker.lease import Lease
from worker.results.checks import check_form, check_rejection
from worker.results.context import Equipment, OperatingPoints, ResultContext, SeriesPlan
from worker.results.errors import ResultInvalid
from worker.results.exam import AnalysedExam
from worker.results.files import save
from worker.results.forms import write_form, write_rejection
from worker.results.overlay import write_overlay
from worker.results.source import read_source
from worker.results.summary import summary_sentence

if TYPE_CHECKING:
    from ml.prediction import BundleIdentity, Lesion, Prediction
    from ml.volume import Geometry, Volume
    from worker.runtime import Runtime

log = structlog.get_logger()

DATABASE_RETRY_S = 1.0


@dataclass
class Stages:
    """Seconds by stage, in the order in which they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.perf_counter() - started, 4)


def run_job(runtime: Runtime, job_id: int) -> None:
    """Run one job if it is there to be taken, and leave its row in the state that is true."""
    job = jobs.claim(runtime.database, job_id, worker=runtime.worker, lease_s=runtime.config.worker.lease_s)
    if job is None:
        return
    with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
        try:
            with Lease(runtime.database, job, runtime.config.worker) as lease:
                outcome = analyse(runtime, job, lease)
                _finish(runtime, job, outcome, lease)
            log.info(
                "job ended", state=outcome.state.value, finding=outcome.finding, **outcome.summary.get("seconds", {})
            )
        except LeaseLost as error:
            log.warning("job given up", reason=str(error))
        except Exception as error:  # noqa: BLE001  (the task boundary)
            if is_of_the_database(error):
                # Nothing can be written now. The lease runs out and the sweep queues the job again.
                log.error("database unreachable, the job will be run again", error=type(error).__name__)
            else:  # every other error becomes a row
                _fail(runtime, job, error)


def _finish(runtime: Runtime, job: ClaimedJob, outcome: Outcome, lease: Lease) -> None:
    """Write the end. A database that is gone is waited for: what took minutes to compute is not thrown away."""
    while True:
        lease.check()
        try:
            jobs.finish(runtime.database, job, outcome, runtime.config)
        except OperationalError as error:  # also a row that somebody keeps locked
            log.warning("the end of the job cannot be written yet", error=type(error).__name__)
            time.sleep(DATABASE_RETRY_S)
        else:
            return


def analyse(runtime: Runtime, job: ClaimedJob, lease: Lease) -> Outcome:
    """The outcome of a job: a finding with SEG and SR, or a rejection with an SR that says why.

    Raises LeaseLost, and any error that is a fault and not an answer.
    """
    paths = [runtime.archive_dir / source.path for source in job.sources]
    if job.rejection:
        return _rejected(runtime, job, paths, *job.rejection)
    jobs.check_input(job)
    stages = Stages()
    try:
        with stages("volume"):
            volume = read_volume(paths)
    except UnreadableStudy as error:
        return _rejected(runtime, job, paths, error.code, str(error))
    lease.check()
    with stages("predict"):
        prediction = runtime.predictor.predict(volume)
    lease.check()
    with stages("lesions"):
        found = Findings(volume, prediction, find_lesions(prediction.mask, volume))
    results, overlay = _write_results(runtime, job, paths, found, stages)
    summary = _summary(runtime, job, found)
    return Outcome(
        state=JobState.SUCCEEDED,
        finding=found.finding,
        results=results,
        bundle=_bundle_name(prediction.bundle),
        summary={**summary, PICTURE: overlay, "seconds": stages.seconds},
    )


@dataclass(frozen=True, eq=False)
class Findings:
    """What the result objects are written from."""

    volume: Volume
    prediction: Prediction
    lesions: tuple[Lesion, ...]

    @property
    def finding(self) -> str:
        """positive or negative."""
        return "positive" if self.prediction.exam_positive else "negative"


def _write_results(
    runtime: Runtime, job: ClaimedJob, paths: list[Path], found: Findings, stages: Stages
) -> tuple[tuple[NewResult, ...], str]:
    """What the destinations' profiles ask for, and the overlay picture, in the archive.

    Returns the rows-to-be and the picture's path.
    """
    written: dict[Variant, tuple[Dataset, ...]] = {}
    with stages("encode"):
        source = read_source(paths, found.volume.geometry)
        exam = AnalysedExam(source, found.volume, found.prediction, found.lesions)
        for variant in runtime.config.wanted(segmented=runtime.config.segmented(found.finding)):
            context = _context(runtime, job, variant.first_series_number)
            written[variant] = write_form(variant.form, context, exam, beside=_beside(variant, written))
    with stages("check"):
        for variant, datasets in written.items():
            check_form(variant.form, datasets, exam, beside=_beside(variant, written))
    with stages("save"):
        kept = [
            _keep(runtime, variant, ds, beside=_beside(variant, written))
            for variant, datasets in written.items()
            for ds in datasets
        ]
        overlay = picture_path(job.input_digest, job.id)
        write_overlay(found.volume, runtime.archive_dir / overlay, prediction=exam.prediction, lesions=exam.lesions)
    return tuple(kept), overlay


def _beside(variant: Variant, written: Mapping[Variant, tuple[Dataset, ...]]) -> tuple[Dataset, ...]:
    """The segmentation that a report refers to, in the form that the same destination gets."""
    return written[variant.about] if variant.about else ()


def _rejected(runtime: Runtime, job: ClaimedJob, paths: list[Path], code: str, sentence: str) -> Outcome:
    """The study cannot be analysed: an SR that says so, if configured."""
    results: tuple[NewResult, ...] = ()
    if runtime.config.results.send_sr_when_rejected:
        header = _any_header(paths, job)
        for variant in runtime.config.wanted(segmented=False):
            context = _context(runtime, job, variant.first_series_number)
            datasets = write_rejection(variant.form, context, header, code=code, sentence=sentence)
            check_rejection(variant.form, datasets, header)
            results += tuple(_keep(runtime, variant, ds) for ds in datasets)
    summary = {
        "study_instance_uid": job.study_instance_uid,
        "series_instance_uid": job.series_instance_uid,
        "series_reason": job.series_reason,
        "rejected": code,
        "reason": sentence,
        "bundle": _bundle_name(runtime.predictor.bundle.identity),
    }
    return Outcome(JobState.REJECTED, "rejected", results, summary=summary, rejection=(code, sentence))


def _any_header(paths: list[Path], job: ClaimedJob) -> Dataset:
    """A header of the study from which the SR takes patient and study; the bare study UID when none can be parsed.

    Raises OSError when the archive is away: that is a fault to wait for, not a report without a patient.
    """
    for path in paths:
        try:
            return pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except (ValueError, AttributeError, KeyError, NotImplementedError):  # what pydicom raises for broken headers
            continue
    bare = Dataset()
    bare.StudyInstanceUID = job.study_instance_uid
    return bare


def _context(runtime: Runtime, job: ClaimedJob, first_series_number: int) -> ResultContext:
    """What decides a result's bytes beside the images; series are numbered from `first_series_number` on."""
    config, bundle = runtime.config, runtime.predictor.bundle
    return ResultContext(
        input_digest=job.input_digest,
        config_digest=config.digest,
        bundle=bundle.identity,
        created_at=job.queued_at,
        operating_points=_operating_points(runtime),
        equipment=Equipment(software_version=__version__, institution_name=config.node.institution_name or None),
        series=SeriesPlan(first_series_number, config.results),
        local_zone=_zone(config),
    )


def _operating_points(runtime: Runtime) -> OperatingPoints:
    """The bundle's thresholds, as results name them."""
    point = runtime.predictor.bundle.config.operating_point
    return OperatingPoints(exam=point.exam_score, voxel=point.pixel_prob, smallest_lesion_ml=point.least_lesion_ml)


def _zone(config: Config) -> timezone:
    """`node.timezone_offset` ("+HHMM") as a zone."""
    text = config.node.timezone_offset
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _keep(runtime: Runtime, variant: Variant, ds: Dataset, *, beside: Sequence[Dataset] = ()) -> NewResult:
    """Save a result durably in the archive; its row comes with the job's end."""
    path = _result_path(ds)
    digest = save(ds, runtime.archive_dir / path)
    return NewResult(
        variant=variant,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        path=path,
        sha256=digest,
        size_bytes=(runtime.archive_dir / path).stat().st_size,
        refers_to=str(beside[0].SOPInstanceUID) if beside else None,
    )


def _result_path(ds: Dataset) -> str:
    """Below the archive; our own UIDs only, so nothing that a peer chose."""
    uid = str(ds.SOPInstanceUID)
    return f"results/{uid[-2:]}/{uid}.dcm"


def _summary(runtime: Runtime, job: ClaimedJob, found: Findings) -> dict[str, Any]:
    """What `dicom-node show` and summary.json tell; no patient attribute."""
    prediction, geometry = found.prediction, found.volume.geometry
    scores = zip(geometry.sop_instance_uids, prediction.slice_scores, strict=True)
    return {
        "study_instance_uid": job.study_instance_uid,
        "series_instance_uid": job.series_instance_uid,
        "series_reason": job.series_reason,
        "line": summary_sentence(prediction, found.lesions, _operating_points(runtime)),
        "finding": found.finding,
        "exam_probability": round(prediction.exam_score, 4),
        "hemorrhage_ml": round(found.volume.volume_ml(prediction.mask), 3),
        "lesions": [_lesion_row(lesion, geometry) for lesion in found.lesions],
        "slice_scores": {uid: round(float(score), 4) for uid, score in scores},
        "bundle": _bundle_name(prediction.bundle),
    }


def _lesion_row(lesion: Lesion, geometry: Geometry) -> dict[str, Any]:
    """One lesion as people read it; the subtype only where it is known."""
    subtype = {"subtype": lesion.subtype.name} if lesion.subtype else {}
    return {
        "number": lesion.number,
        "side": lesion.side.value,
        **subtype,
        "volume_ml": round(lesion.volume_ml, 3),
        "abc2_ml": round(lesion.abc2_ml, 3),
        "longest_axial_diameter_mm": round(lesion.longest_axial_diameter_mm, 1),
        "mean_hu": round(lesion.mean_hu, 1),
        "key_slices": [z + 1 for z in lesion.key_slices],
        "key_sop_instance_uids": [geometry.sop_instance_uids[z] for z in lesion.key_slices],
    }


def _bundle_name(identity: BundleIdentity) -> str:
    return f"{identity.name} {identity.version} ({identity.digest[:12]})"


def _fail(runtime: Runtime, job: ClaimedJob, error: Exception) -> None:
    """Turn an error into a row: tried again when time can heal it, else FAILED with a code."""
    if isinstance(error, OSError) and error.errno:
        known_as = archive_error(error)
        error = type(known_as)(f"{known_as}; a file of the archive cannot be read or written, see `dicom-node doctor`")
    if isinstance(error, NodeError | MlError | ResultInvalid):
        code, text = error.code, str(error)
        log.error("job raised an error", code=code, error=text)
    else:
        code = type(error).__name__
        text = f"{code} in the worker; the log of job {job.id} has the trace"
        log.error("job raised an error", code=code, error=text, exc_info=error)
    retryable = not isinstance(error, ResultInvalid) and getattr(error, "retryable", True)
    try:
        state = jobs.fail(
            runtime.database, job, code=str(code)[:64], text=text, retryable=retryable, config=runtime.config.worker
        )
        log.info("job given back", state=state.value)
    except (LeaseLost, SQLAlchemyError) as later:
        log.warning("the failure could not be written; the lease will run out", error=type(later).__name__)
