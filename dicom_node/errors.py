"""Errors of `dicom_node`.

NodeError                    root; `code` is stable and may be stored; `retryable` says whether time can heal it
+- ConfigError               config.toml cannot be used; the message names the line and what to write
+- ArchiveError
|  +- OutOfSpace             free space is below the watermark, or the disk said ENOSPC (retryable)
|  +- UnsafeUid              a UID that must not become part of a path
+- LeaseLost                 another worker owns the job now; what this one did is thrown away
+- InputChanged              a job's instances are not those that it was made for (retryable: the next one replaces it)
+- DeliveryError
|  +- DestinationUnavailable no connection, or a status that time can heal (retryable)
|  +- DestinationRefused     the destination will never take this object as it is
|     +- ClassesRefused      it is there, and accepts none of the SOP classes that it was asked for
+- NotFound                  the CLI was asked for something that is not there
+- NotPossible               it is there, but not in a state in which that can be done
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of every error that the node raises on purpose."""

    code = "NODE_ERROR"
    retryable = False


class ConfigError(NodeError):
    """The configuration cannot be used."""

    code = "CONFIG_INVALID"


class ArchiveError(NodeError):
    """A file could not be kept or read."""

    code = "ARCHIVE_ERROR"
    retryable = True


class OutOfSpace(ArchiveError):
    """No room for another instance."""

    code = "OUT_OF_SPACE"


class UnsafeUid(ArchiveError):
    """Not a UID of PS3.5 section 9: digits and dots, 64 characters at most."""

    code = "UNSAFE_UID"
    retryable = False


class LeaseLost(NodeError):
    """The job belongs to another attempt."""

    code = "LEASE_LOST"

    def __init__(self, job_id: int, attempt: int) -> None:
        super().__init__(f"job {job_id} attempt {attempt} is no longer running here")


class InputChanged(NodeError):
    """Instances of the job were replaced after it was made: the study is being received, and makes the next job."""

    code = "INPUT_CHANGED"
    retryable = True


class DeliveryError(NodeError):
    """A result could not be sent."""

    code = "DELIVERY_FAILED"


class DestinationUnavailable(DeliveryError):
    """Try again later."""

    code = "DESTINATION_UNAVAILABLE"
    retryable = True


class DestinationRefused(DeliveryError):
    """Trying again changes nothing until somebody acts."""

    code = "DESTINATION_REFUSED"


class ClassesRefused(DestinationRefused):
    """No presentation context was accepted."""

    code = "SOP_CLASSES_REFUSED"


class NotFound(NodeError):
    """There is no such study, job, delivery or bundle."""

    code = "NOT_FOUND"


class NotPossible(NodeError):
    """The state of the job or delivery does not allow what was asked."""

    code = "NOT_POSSIBLE"
