"""Decides that a study is complete, which series is its exam, and writes the job: one commit, then the message.

Evidence, in this order (the reason is kept with the study):

    CONTIGUOUS  every association that sent to the study has ended, `settle_s` passed, and the chosen series
                has no gap and covers at least `min_coverage_mm`
    QUIET       nothing came for `quiet_s`, whatever the slices look like
    MAX_WAIT    `max_wait_s` passed, although instances still come

A late instance makes the study RECEIVING again (dicom_node.intake). When it is complete once more and the exam's
input set is the same, nothing new happens; when it differs, a new generation replaces the older job and results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from dicom_node import eligibility, jobs
from dicom_node.audit import record
from dicom_node.config import Config
from dicom_node.db import Database, is_of_the_database, now
from dicom_node.facts import InstanceFacts, facts_from_json
from dicom_node.stack import is_contiguous
from dicom_node.states import OPEN_JOB_STATES, CompleteReason, JobState, StudyState
from dicom_node.tables import Association, Instance, Job, Study, Verdict

log = structlog.get_logger()

IMAGE_STORAGE_PREFIX = "1.2.840.10008.5.1.4.1.1."
NOT_IMAGES = ("66", "67", "88.", "104.", "11.", "9.", "481.")
"""Storage SOP classes below the prefix that hold no image to analyse (PS3.4 B.5): raw data, registration, SEG and
surfaces; value mapping; SR and KOS; encapsulated documents; presentation states; waveforms; radiotherapy."""
IMAGES_REMOVED = "IMAGES_REMOVED"
"""Rejection of what came to a study whose images retention had removed (dicom_node.retention)."""
FAULT_PAUSE_S = 60.0
"""A study that could not be decided because of a fault is looked at again after this long."""


@dataclass(frozen=True)
class Decision:
    """What a study's instances amount to, read in one moment and not yet written."""

    instances: Sequence[Instance]
    facts: Sequence[InstanceFacts]
    """Of the instances that are not our own results."""
    choice: eligibility.Choice


@dataclass
class Watch:
    """What this process remembers of a study that is being received."""

    last_received_at: datetime
    since: float
    """When this process first saw `last_received_at` (time.monotonic): quiet grows even when a clock was set back."""
    looked_at: bool = False
    """Its slices were looked at after the latest arrival, and were not whole."""
    pause_until: float = 0.0


class Completion:
    """Called by the sweep; remembers per study what it has already looked at, so that waiting costs little."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._config = config
        self._watched: dict[int, Watch] = {}

    def sweep(self) -> list[int]:
        """Look at every study that is being received. Returns the ids of new jobs.

        A fault in one study (a bug, a header nobody thought of) is logged and leaves the others alone.
        """
        made = []
        for row in self._waiting():
            watch, reason = self._watched[row.id], self._due(row)
            if reason is None:
                continue
            try:
                job_id = self._complete(row.id, watch, reason)
            except Exception as error:
                if is_of_the_database(error):
                    raise
                watch.pause_until = time.monotonic() + FAULT_PAUSE_S
                log.exception("a study cannot be decided; looking at it again later", study_id=row.id)
                continue
            if job_id is not None:
                made.append(job_id)
        return made

    def _waiting(self) -> Sequence[sa.Row[int, datetime, datetime, bool]]:
        """The studies that are being received, and whether an association that sent to them is still open."""
        with self._database.reading() as session:
            sending = (
                sa.select(Instance.id)
                .join(Association, Instance.association_id == Association.id)
                .where(Instance.study_id == Study.id, Association.closed_at.is_(None))
                .exists()
            )
            rows = session.execute(
                sa.select(Study.id, Study.last_received_at, Study.receiving_since, sending.label("still_open"))
                .where(Study.state == StudyState.RECEIVING)
                .order_by(Study.receiving_since)
            ).all()
        known = self._watched
        self._watched = {
            row.id: known[row.id]
            if row.id in known and known[row.id].last_received_at == row.last_received_at
            else Watch(row.last_received_at, time.monotonic())
            for row in rows
        }
        return rows

    def _due(self, row: sa.Row[int, datetime, datetime, bool]) -> CompleteReason | None:
        """The reason for which a study may be complete now; CONTIGUOUS still needs a look at its slices."""
        rules, watch = self._config.completion, self._watched[row.id]
        if time.monotonic() < watch.pause_until:
            return None
        quiet_s = max((now() - row.last_received_at).total_seconds(), time.monotonic() - watch.since)
        if quiet_s >= rules.quiet_s:
            return CompleteReason.QUIET
        if (now() - row.receiving_since).total_seconds() >= rules.max_wait_s:
            return CompleteReason.MAX_WAIT
        if not row.still_open and quiet_s >= rules.settle_s and not watch.looked_at:
            return CompleteReason.CONTIGUOUS
        return None

    def _complete(self, study_id: int, watch: Watch, reason: CompleteReason) -> int | None:
        """Complete one study if nothing arrived since the decision was made. Returns the id of the job made, if any.

        Deciding takes long on a large study, so it is done before the transaction that writes: listeners wait for that.
        """
        with self._database.reading() as session:
            decision = _decide(session, study_id, self._config)
        if reason is CompleteReason.CONTIGUOUS and not self._looks_whole(decision):
            watch.looked_at = True
            return None
        with self._database.session() as session:
            study = _unchanged(session, study_id, watch.last_received_at, len(decision.instances))
            if study is None:
                return None
            study.state = StudyState.COMPLETE
            study.completed_at = now()
            study.complete_reason = reason
            record(session, "study complete", study_id=study.id, reason=reason.value, instances=len(decision.instances))
            return _new_job(session, study, decision)

    def _looks_whole(self, decision: Decision) -> bool:
        """True when the chosen series has no gap and is as long as a head."""
        rules = self._config.completion
        exam = [facts for facts in decision.facts if facts.series_instance_uid == decision.choice.chosen]
        return is_contiguous(exam, min_coverage_mm=rules.min_coverage_mm, min_slices=rules.min_slices)


def _decide(session: Session, study_id: int, config: Config) -> Decision:
    instances = session.scalars(
        sa.select(Instance).where(Instance.study_id == study_id).order_by(Instance.sop_instance_uid)
    ).all()
    facts = [facts_from_json(row.facts) for row in instances if not row.is_own_result]
    return Decision(instances, facts, eligibility.choose(facts, config.eligibility))


def _unchanged(session: Session, study_id: int, last_received_at: datetime, instances: int) -> Study | None:
    """The study's row, locked against intake, if it is still being received and nothing came since the decision."""
    study = session.scalar(
        sa.select(Study)
        .where(Study.id == study_id, Study.state == StudyState.RECEIVING, Study.last_received_at == last_received_at)
        # Not FOR UPDATE: that would wait for, and deadlock with, a worker whose rows refer to this study.
        .with_for_update(key_share=True)
    )
    if study is None:
        return None
    count = session.scalar(sa.select(sa.func.count()).where(Instance.study_id == study_id))
    return study if count == instances else None


def _new_job(session: Session, study: Study, decision: Decision) -> int | None:
    """The next generation's job, unless the study holds no image or the exam is the one already read."""
    choice = decision.choice
    latest = session.scalar(
        sa.select(Job)
        .where(Job.study_id == study.id)
        .order_by(Job.generation.desc())
        .limit(1)
        .with_for_update(key_share=True)
    )
    if not any(_is_image(facts.sop_class_uid) for facts in decision.facts):
        if latest is not None and latest.state in OPEN_JOB_STATES:
            jobs.cancel_row(session, latest, why="the images came again as those of another study")
        record(session, "nothing to analyse", study_id=study.id)
        return None
    rejection = _rejection(session, study, decision)
    chosen = None if rejection else choice.chosen
    exam = [row for row in decision.instances if chosen and row.series_instance_uid == chosen]
    read = ((row.sop_instance_uid, row.sha256) for row in exam)
    digest = jobs.input_digest(study.study_instance_uid, read, rejection_code=rejection[0] if rejection else None)
    if latest is not None and latest.input_digest == digest and latest.state is not JobState.CANCELLED:
        _keep_verdicts(session, study, choice)
        record(session, "exam unchanged, no new job", study_id=study.id, job_id=latest.id)
        return None
    if latest is not None and latest.state in OPEN_JOB_STATES:
        jobs.cancel_row(session, latest, why="later instances changed the exam; the next generation replaces this job")
    study.generation += 1
    _keep_verdicts(session, study, choice)
    job = Job(
        study_id=study.id,
        generation=study.generation,
        series_instance_uid=chosen,
        series_reason=_reason(choice),
        sop_instance_uids=[row.sop_instance_uid for row in exam],
        input_digest=digest,
        rejection_code=rejection[0] if rejection else None,
        rejection_text=rejection[1][:512] if rejection else None,
        queued_at=now(),
    )
    session.add(job)
    session.flush()
    record(session, "job queued", study_id=study.id, job_id=job.id, generation=study.generation, slices=len(exam))
    log.info(
        "study complete",
        study_id=study.id,
        job_id=job.id,
        reason=study.complete_reason,
        slices=len(exam),
        rejection=job.rejection_code,
    )
    return job.id


def _rejection(session: Session, study: Study, decision: Decision) -> tuple[str, str] | None:
    """Why no series of it can be read, as (code, sentence); None when one can."""
    choice = decision.choice
    if study.images_removed_at is not None and not _came_again_whole(session, study, decision):
        sentence = (
            f"its images were removed from this node on {study.images_removed_at:%Y-%m-%d}, after they had been read, "
            "and only a part came again; send the whole study"
        )
        return IMAGES_REMOVED, sentence
    return None if choice.chosen else (choice.code or "NO_ELIGIBLE_SERIES", choice.sentence or "")


def _came_again_whole(session: Session, study: Study, decision: Decision) -> bool:
    """Whether all slices of the exam that was read last are here."""
    last_exam = session.scalar(
        sa.select(Job.sop_instance_uids)
        .where(Job.study_id == study.id, Job.series_instance_uid.is_not(None))
        .order_by(Job.generation.desc())
        .limit(1)
    )
    return {row.sop_instance_uid for row in decision.instances}.issuperset(last_exam or ())


def _keep_verdicts(session: Session, study: Study, choice: eligibility.Choice) -> None:
    """Why each series was or was not the exam, for this generation."""
    session.execute(sa.delete(Verdict).where(Verdict.study_id == study.id, Verdict.generation == study.generation))
    for verdict in choice.verdicts:
        session.add(
            Verdict(
                study_id=study.id,
                generation=study.generation,
                series_instance_uid=verdict.series_instance_uid,
                chosen=verdict.series_instance_uid == choice.chosen,
                eligible=verdict.eligible,
                rank=verdict.rank or 0,
                reason_code=verdict.reason_code,
                reason=verdict.reason[:512],
            )
        )


def _reason(choice: eligibility.Choice) -> str:
    """The sentence of the chosen series, or why there is none."""
    chosen = next((v.reason for v in choice.verdicts if v.series_instance_uid == choice.chosen), None)
    return (chosen or choice.sentence or "")[:512]


def _is_image(sop_class_uid: str) -> bool:
    tail = sop_class_uid.removeprefix(IMAGE_STORAGE_PREFIX)
    return tail != sop_class_uid and not tail.startswith(NOT_IMAGES)
