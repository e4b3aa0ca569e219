"""A node without its processes: real intake, archive and database; time is moved by moving the rows."""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pydicom
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node import jobs, schema
from dicom_node.archive import FolderArchive
from dicom_node.completion import Completion
from dicom_node.config import Config, parse_config
from dicom_node.db import Database, make_engine
from dicom_node.intake import Intake, StoreRequest
from dicom_node.intake_rows import AssociationRecord
from dicom_node.jobs import ClaimedJob, NewResult, Outcome
from dicom_node.part10 import file_head
from dicom_node.profiles import Variant
from dicom_node.states import JobState, ResultKind
from dicom_node.statuses import Status
from dicom_node.tables import Job, Study
from tests.dicom_factory import ct_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = "2.25.1"


@contextmanager
def looping(loop: Callable[..., None], *arguments: Any) -> Iterator[threading.Thread]:
    """`loop(stop, *arguments)` in a thread; at the end of the block it is told to stop, and ends."""
    stop = threading.Event()
    thread = threading.Thread(target=loop, args=(stop, *arguments))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


class House:
    """Config, database, archive and intake in one folder."""

    def __init__(self, folder: Path, url: str = "", *, config: str = "") -> None:
        self.folder = folder
        self.config = make_config(folder, url, config)
        self.engine = make_engine(self.config.database)
        schema.upgrade(self.engine)
        self.database = Database(self.engine)
        self.archive = FolderArchive(self.config.archive_dir)
        policy = self.config.listener.same_uid_other_bytes
        self.intake = Intake(self.engine, self.archive, listener_id="test/1", same_uid_other_bytes=policy)
        self.completion = Completion(self.database, self.config)

    def receive(
        self, datasets: Iterable[Dataset], *, association: AssociationRecord | None = None, close: bool = True
    ) -> AssociationRecord:
        """What a peer sends over one association, as the listener takes it in."""
        record = association or AssociationRecord("CT1", "ICHNODE", "127.0.0.1")
        for dataset in datasets:
            status = self.store(dataset, record)
            assert status is Status.SUCCESS, status
        if close:
            self.intake.close(record, "released")
        return record

    def store(self, dataset: Dataset, record: AssociationRecord) -> Status:
        """One C-STORE."""
        uid, sop_class = str(dataset.SOPInstanceUID), str(dataset.SOPClassUID)
        head = file_head(
            sop_class_uid=sop_class,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            source_ae_title=record.calling_ae_title,
        )
        spool = self.archive.spool(head)
        spool.write(encoded(dataset))
        record.stored_count += 1
        return self.intake.store(spool, StoreRequest(sop_class, uid, ExplicitVRLittleEndian, len(head)), record).status

    def sweep(self) -> list[int]:
        """One look at the studies that are being received."""
        return self.completion.sweep()

    def age(self, *, s: float) -> None:
        """So many seconds pass: every study was received so much earlier."""
        with self.database.session() as session:
            for study in session.scalars(sa.select(Study)):
                study.last_received_at -= timedelta(seconds=s)
                study.receiving_since -= timedelta(seconds=s)

    def job(self, datasets: Iterable[Dataset] | None = None) -> int:
        """The id of a queued job for a head CT."""
        self.receive(head_ct() if datasets is None else datasets)
        (made,) = self.sweep()
        return made

    def claimed(self, job_id: int | None = None, worker: str = "worker-1") -> ClaimedJob:
        """A job that a worker has taken."""
        taken = jobs.claim(self.database, job_id or self.job(), worker=worker, lease_s=30.0)
        assert taken is not None
        return taken

    def finish(
        self, job: ClaimedJob, *, name: str = "", kinds: Sequence[ResultKind] = tuple(ResultKind), **outcome: Any
    ) -> None:
        """End a job with the files that the destinations' profiles ask for; their UIDs follow from its input."""
        segmented = self.config.segmented(outcome.get("finding", "positive"))
        wanted = [one for one in self.config.wanted(segmented=segmented) if one.kind in kinds]
        results = tuple(self.result(one, f"{job.input_digest}{name}") for one in wanted)
        values = {"state": JobState.SUCCEEDED, "finding": "positive", "results": results, "bundle": "b"} | outcome
        jobs.finish(self.database, job, Outcome(**values), self.config)

    def result(self, variant: Variant, seed: str) -> NewResult:
        """A result file in the archive."""
        uid, sop_class = _result_uid(variant, seed), str(variant.form.sop_class_uid)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{uid}1"
        dataset.Modality, dataset.PatientID, dataset.PatientName = variant.kind.value, "PHANTOM1", "Phantom^Head"
        path = f"results/{uid}.dcm"
        target = self.config.archive_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(target, dataset, enforce_file_format=True)
        about = variant.about
        refers_to = _result_uid(about, seed) if about else None
        return NewResult(variant, sop_class, uid, f"{uid}1", path, "00" * 32, target.stat().st_size, refers_to)

    def row(self, job_id: int) -> Job:
        """A job as it stands, with its study."""
        with self.database.reading() as session:
            job = session.get_one(Job, job_id)
            assert job.study.id
            return job

    def all(self, table: type[Any]) -> list[Any]:
        """Every row of a table, in order."""
        with self.database.reading() as session:
            return list(session.scalars(sa.select(table).order_by(table.id)))

    def study(self) -> Study:
        """The one study there is."""
        (study,) = self.all(Study)
        assert isinstance(study, Study)
        return study

    def change(self, table: type[Any], **values: Any) -> None:
        """Set columns of every row of a table."""
        with self.database.session() as session:
            session.execute(sa.update(table).values(**values))


def _result_uid(variant: Variant, seed: str) -> UID:
    return UID(f"2.25.{abs(hash((variant.key, seed)))}")


def make_config(folder: Path, url: str = "", text: str = "") -> Config:
    """A config whose times are long, but for settling."""
    defaults = {"settle_s": "0.0", "quiet_s": "1000.0", "max_wait_s": "5000.0"}
    completion = "\n".join(f"{key} = {value}" for key, value in defaults.items() if f"{key} =" not in text)
    database = f'[database]\nurl = "{url}"\nlock_timeout_s = 2.0'
    whole = f'[node]\ndata_dir = "{folder}/data"\n{database}\n[completion]\n{completion}\n{text}'
    return parse_config(whole, source="test", base=folder)


def head_ct(slices: int = 12, **options: Any) -> list[Dataset]:
    """A whole head (110 mm) of few and tiny slices."""
    given: dict[str, Any] = {
        "study_uid": STUDY,
        "series_uid": "2.25.2",
        "rows": 4,
        "columns": 4,
        "spacing_mm": 10.0,
    } | options
    return ct_series(slices=slices, **given)


def other_object(sop_class: str, modality: str, uid: str = "2.25.77") -> Dataset:
    """An object of the study that is no CT image."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{uid}.1"
    dataset.Modality, dataset.PatientID = modality, "PHANTOM1"
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """The dataset's bytes, as they travel."""
    buffer = io.BytesIO()
    plain = Dataset(dataset)
    pydicom.dcmwrite(buffer, plain, implicit_vr=False, little_endian=True)
    return buffer.getvalue()
