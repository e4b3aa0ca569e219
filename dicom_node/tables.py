"""The rows that hold the truth. Files hold bytes, messages hold ids.

    associations --< instances >-- studies --< jobs --< results --< deliveries
                                     |                                                 |
                                  verdicts    audit_events (every change of note)    commitments

    owed_reports (commitments that peers asked of this node)

Times are UTC. States are strings with a CHECK. No column holds a patient name, id or birth date.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from dicom_node.states import CompleteReason, DeliveryState, JobState, ResultKind, StudyState

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

PICTURE = "overlay"
"""Where a job's summary names the file of its picture, relative to the archive."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime on every database (SQLite keeps no zone: it is put back on reading)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a naive time; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone was given; use datetime.now(UTC)")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """Give UTC back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Metadata with a naming convention, so that migrations can name every constraint."""

    metadata = sa.MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: sa.JSON(), list[str]: sa.JSON()}  # noqa: RUF012


def _enum(states: type[StudyState | JobState | DeliveryState | ResultKind | CompleteReason], name: str) -> sa.Enum:
    """A string column with a CHECK that lists the members."""
    return sa.Enum(
        states,
        native_enum=False,
        create_constraint=True,
        name=name,
        length=16,
        values_callable=lambda e: [m.value for m in e],
    )


class Association(Base):
    """One association that a peer opened with the listener; open while `closed_at` is null."""

    __tablename__ = "associations"

    id: Mapped[int] = mapped_column(primary_key=True)
    listener_id: Mapped[str] = mapped_column(sa.String(128), index=True)
    calling_ae_title: Mapped[str] = mapped_column(sa.String(16))
    called_ae_title: Mapped[str] = mapped_column(sa.String(16))
    peer_address: Mapped[str] = mapped_column(sa.String(64))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None] = mapped_column(index=True)
    how_ended: Mapped[str | None] = mapped_column(sa.String(32))
    stored_count: Mapped[int] = mapped_column(default=0)
    refused_count: Mapped[int] = mapped_column(default=0)


class Study(Base):
    """One Study Instance UID. `generation` counts the analyses that its content has asked for."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(sa.String(64), unique=True)
    state: Mapped[StudyState] = mapped_column(_enum(StudyState, "state"), default=StudyState.RECEIVING, index=True)
    generation: Mapped[int] = mapped_column(default=0)
    calling_ae_title: Mapped[str] = mapped_column(sa.String(16))
    """Who sent the latest instance; routing rules read it."""
    created_at: Mapped[datetime]
    receiving_since: Mapped[datetime]
    """When the present round of receiving began; the hard maximum counts from here."""
    last_received_at: Mapped[datetime] = mapped_column(index=True)
    completed_at: Mapped[datetime | None]
    complete_reason: Mapped[CompleteReason | None] = mapped_column(_enum(CompleteReason, "complete_reason"))
    images_removed_at: Mapped[datetime | None]
    """When retention last took the files and rows of its instances; they may have come again since."""

    instances: Mapped[list[Instance]] = relationship(back_populates="study")
    jobs: Mapped[list[Job]] = relationship(back_populates="study", order_by="Job.generation")


class Instance(Base):
    """One instance that was acknowledged. The file at `path` was durable before this row was."""

    __tablename__ = "instances"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(sa.String(64), unique=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(sa.String(64), index=True)
    association_id: Mapped[int | None] = mapped_column(sa.ForeignKey("associations.id"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(sa.String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(sa.String(64))
    """Of the dataset's bytes as received, without the file meta information."""
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    path: Mapped[str] = mapped_column(sa.String(512))
    """Relative to the archive."""
    received_at: Mapped[datetime]
    times_received: Mapped[int] = mapped_column(default=1)
    is_own_result: Mapped[bool] = mapped_column(default=False)
    """Loop guard: a result of this node that came back; never analysed, never reopens its study."""
    promised_at: Mapped[datetime | None]
    """When a peer was told that this node keeps it (storage commitment); retention leaves its study alone."""
    facts: Mapped[dict[str, Any]]
    """`facts.InstanceFacts` as JSON."""

    study: Mapped[Study] = relationship(back_populates="instances")


class Conflict(Base):
    """An instance that came again under the same UID with other bytes; the bytes are kept aside."""

    __tablename__ = "conflicts"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(sa.String(64), index=True)
    association_id: Mapped[int | None] = mapped_column(sa.ForeignKey("associations.id"))
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    path: Mapped[str] = mapped_column(sa.String(512))
    policy: Mapped[str] = mapped_column(sa.String(16))
    """What config said when it came: keep_first, replace or refuse."""
    received_at: Mapped[datetime]


class Verdict(Base):
    """Why a series was or was not the exam, for each generation of its study."""

    __tablename__ = "verdicts"
    __table_args__ = (sa.UniqueConstraint("study_id", "generation", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"))
    generation: Mapped[int]
    series_instance_uid: Mapped[str] = mapped_column(sa.String(64))
    chosen: Mapped[bool]
    eligible: Mapped[bool]
    rank: Mapped[int]
    reason_code: Mapped[str] = mapped_column(sa.String(64))
    reason: Mapped[str] = mapped_column(sa.String(512))


class Job(Base):
    """The analysis of one generation of a study. Every write by a worker says `WHERE attempt = mine`."""

    __tablename__ = "jobs"
    __table_args__ = (sa.UniqueConstraint("study_id", "generation"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"), index=True)
    generation: Mapped[int]
    state: Mapped[JobState] = mapped_column(_enum(JobState, "state"), default=JobState.QUEUED, index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(sa.String(64))
    series_reason: Mapped[str] = mapped_column(sa.String(512), default="")
    sop_instance_uids: Mapped[list[str]]
    """The exact input set, sorted by UID; empty when the study was rejected before any series was chosen."""
    input_digest: Mapped[str] = mapped_column(sa.String(64))
    """SHA-256 over the input set's UIDs and file digests (or over the rejection and its evidence)."""
    rejection_code: Mapped[str | None] = mapped_column(sa.String(64))
    rejection_text: Mapped[str | None] = mapped_column(sa.String(512))
    attempt: Mapped[int] = mapped_column(default=0)
    """Goes up with every claim and never down: it tells a worker that lost the job from the one that has it."""
    failures: Mapped[int] = mapped_column(default=0)
    """Errors that time can heal, since it was last queued by hand."""
    worker_deaths: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(sa.String(128))
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    not_before: Mapped[datetime | None]
    published_at: Mapped[datetime | None]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_text: Mapped[str | None] = mapped_column(sa.String(1024))
    bundle: Mapped[str | None] = mapped_column(sa.String(128))
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What `dicom-node show` and summary.json tell of the finished job."""

    study: Mapped[Study] = relationship(back_populates="jobs")
    results: Mapped[list[Result]] = relationship(back_populates="job")


class Result(Base):
    """One object that a job made. Its UID follows from the input set, bundle, config, form and options."""

    __tablename__ = "results"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), index=True)
    kind: Mapped[ResultKind] = mapped_column(_enum(ResultKind, "kind"))
    form: Mapped[str] = mapped_column(sa.String(64))
    """`result_forms.FormName`: how it is written."""
    variant: Mapped[str] = mapped_column(sa.String(255))
    """`profiles.Variant.key`: all that decides it beside the images. Destinations that want the same share it."""
    refers_to: Mapped[str | None] = mapped_column(sa.String(64))
    """SOP Instance UID of the segmentation that a report names."""
    sop_class_uid: Mapped[str] = mapped_column(sa.String(64))
    sop_instance_uid: Mapped[str] = mapped_column(sa.String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(sa.String(64))
    path: Mapped[str] = mapped_column(sa.String(512))
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime]
    superseded_at: Mapped[datetime | None]
    file_removed_at: Mapped[datetime | None]
    """When retention took the file at `path`. The row stays: it says what was sent, and is the loop guard."""

    job: Mapped[Job] = relationship(back_populates="results")
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="result")


class Delivery(Base):
    """The outbox: one row per result and destination, saved in the same commit as the job's end."""

    __tablename__ = "deliveries"
    __table_args__ = (sa.UniqueConstraint("result_id", "destination"), sa.Index(None, "state", "confirm_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(sa.ForeignKey("results.id"), index=True)
    destination: Mapped[str] = mapped_column(sa.String(64), index=True)
    state: Mapped[DeliveryState] = mapped_column(_enum(DeliveryState, "state"), default=DeliveryState.PENDING)
    rank: Mapped[int] = mapped_column(default=0)
    """Place in the order of preference among the forms of its kind: 0 is sent first, the others are spare."""
    attempts: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    last_status: Mapped[str | None] = mapped_column(sa.String(16))
    last_error: Mapped[str | None] = mapped_column(sa.String(512))
    commitment_id: Mapped[int | None] = mapped_column(sa.ForeignKey("commitments.id"), index=True)
    """The transaction whose report is waited for."""
    confirm_at: Mapped[datetime | None]
    """SENT only: when the next step of making sure is due; null where the destination is not asked to confirm."""
    confirm_attempts: Mapped[int] = mapped_column(default=0)
    """Steps of making sure since it was last sent."""
    confirm_rounds: Mapped[int] = mapped_column(default=0)
    """How often it was sent again because the destination did not confirm it."""
    committed_at: Mapped[datetime | None]
    committed_by: Mapped[str | None] = mapped_column(sa.String(16))
    """report or read back."""

    result: Mapped[Result] = relationship(back_populates="deliveries")


class Commitment(Base):
    """A storage commitment transaction that this node asked a destination for; the row is there before the request."""

    __tablename__ = "commitments"

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(sa.String(64), unique=True)
    destination: Mapped[str] = mapped_column(sa.String(64))
    sop_instance_uids: Mapped[list[str]]
    asked_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]
    """When the first report came; a destination may report again, and late."""
    committed_count: Mapped[int] = mapped_column(default=0)
    failed_count: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None] = mapped_column(sa.String(512))


class OwedReport(Base):
    """A peer asked this node to commit to instances: the report that it is owed, until it has it or is given up."""

    __tablename__ = "owed_reports"
    __table_args__ = (sa.UniqueConstraint("calling_ae_title", "transaction_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(sa.String(16))
    transaction_uid: Mapped[str] = mapped_column(sa.String(64))
    sop_classes: Mapped[dict[str, Any]]
    """SOP Instance UID -> SOP Class UID of all that it asked about."""
    asked_at: Mapped[datetime]
    not_before: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    reported_at: Mapped[datetime | None] = mapped_column(index=True)
    given_up_at: Mapped[datetime | None]
    committed_count: Mapped[int | None]
    """As reported last."""
    failed_count: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(sa.String(512))


class AuditEvent(Base):
    """What happened, in order; rows are only ever added."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(sa.String(64), index=True)
    study_id: Mapped[int | None] = mapped_column(sa.ForeignKey("studies.id"), index=True)
    job_id: Mapped[int | None] = mapped_column(sa.ForeignKey("jobs.id"))
    detail: Mapped[dict[str, Any]]
