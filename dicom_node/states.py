"""Every state a study, a job, a result or a delivery can be in, and the moves between them, on one screen.

study      RECEIVING -> COMPLETE -> (late instance) RECEIVING ...
job        QUEUED -> RUNNING -> SUCCEEDED | REJECTED
                      |  +-> QUEUED        transient error or lost worker, after a wait
                      |  +-> FAILED        permanent error, or attempts used up
                      |  +-> QUARANTINED   the study killed its worker too often
           QUEUED | RUNNING -> CANCELLED   by an administrator, or because a later generation replaced it
           FAILED | QUARANTINED | CANCELLED | REJECTED -> QUEUED   `dicom-node retry`
           A job REJECTED because no series was eligible stays as it is: retry reopens its study instead.
delivery   PENDING -> SENT | DEAD ; DEAD -> PENDING `dicom-node deliver` ; all but SENT -> CANCELLED (superseded)
           PENDING -> REFUSED and SPARE -> PENDING   the destination takes no such form, the next one goes instead
           SPARE -> CANCELLED   a form before it was sent
           any -> SENT          the destination's success came after all; CANCELLED -> PENDING  wanted again
           SENT is the end where config asks for no confirmation; else (`confirm_at` is set)
           SENT -> COMMITTED   the destination committed to it, or it was found there (C-FIND)
                -> PENDING     lost or refused there, or no word of it: sent again, `confirmation.max_rounds` times
                -> DEAD        the destination will never commit to it, or the rounds are used up
                -> CANCELLED   not there, and a later result has replaced it
           PENDING | DEAD | CANCELLED -> COMMITTED   a late report says so; COMMITTED is never left
"""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """Whether more instances of a study are expected."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"


class CompleteReason(StrEnum):
    """Why a study was called complete."""

    CONTIGUOUS = "CONTIGUOUS"
    """All associations ended and the chosen series has no gap and covers a head."""
    QUIET = "QUIET"
    """Nothing came for `completion.quiet_s`."""
    MAX_WAIT = "MAX_WAIT"
    """`completion.max_wait_s` passed since the first instance of this generation."""


class JobState(StrEnum):
    """Where the analysis of one generation of a study stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    QUARANTINED = "QUARANTINED"
    CANCELLED = "CANCELLED"


class DeliveryState(StrEnum):
    """Where the sending of one result to one destination stands."""

    PENDING = "PENDING"
    SPARE = "SPARE"
    """A form less preferred: sent only if the destination refuses the one before it."""
    SENT = "SENT"
    """The destination took it. What is more, if config asks for it, is COMMITTED."""
    COMMITTED = "COMMITTED"
    """The destination said, or showed, that it keeps it."""
    REFUSED = "REFUSED"
    """The destination does not take this form; the next one of its profile goes in its place."""
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"


class ResultKind(StrEnum):
    """What a result object says; in the order in which the objects of a job are made and sent."""

    SEG = "SEG"
    """A segmentation."""
    SR = "SR"
    """A structured report."""
    KOS = "KOS"
    """A Key Object Selection: the images to open first."""
    SC = "SC"
    """A Secondary Capture: the summary as a picture."""
    PDF = "PDF"
    """The summary as an encapsulated PDF."""


OPEN_JOB_STATES = (JobState.QUEUED, JobState.RUNNING)
ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
"""The destination took it."""

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.REJECTED,
            JobState.QUEUED,
            JobState.FAILED,
            JobState.QUARANTINED,
            JobState.CANCELLED,
        }
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.REJECTED: frozenset({JobState.QUEUED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.QUARANTINED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}


def job_states_before(target: JobState) -> tuple[JobState, ...]:
    """The states from which a job may move to `target`; every UPDATE names them in its WHERE."""
    return tuple(state for state, nexts in JOB_MOVES.items() if target in nexts)
