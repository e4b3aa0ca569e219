"""UIDs that depend on what went in and on nothing else, so that a retry never makes a second result.

Form: `2.25.` and a 128-bit integer (PS3.5 B.2); the bits are a SHA-256 cut to a UUID of version 8 (RFC 9562 5.8).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydicom.uid import UID

if TYPE_CHECKING:
    from dicom_node.result_forms import Form
    from worker.results.context import ResultContext

_SEPARATOR = b"\x1f"
_VERSION_8_CLEAR = ~((0xF << 76) | (0x3 << 62))
_VERSION_8_SET = (0x8 << 76) | (0x2 << 62)


def derive_uid(*parts: str) -> UID:
    """A UID from texts; equal texts give the equal UID, on every machine and for ever."""
    digest = hashlib.sha256(_SEPARATOR.join(part.encode() for part in parts)).digest()
    number = int.from_bytes(digest[:16], "big") & _VERSION_8_CLEAR | _VERSION_8_SET
    return UID(f"2.25.{number}")


def result_uid(context: ResultContext, name: str) -> UID:
    """UID of something that is the same in every form of a result: `name` is "exam", "lesion 1" and the like."""
    return derive_uid(context.input_digest, context.bundle.digest, context.config_digest, name)


def form_uid(context: ResultContext, form: Form, part: str, *, refers_to: str = "") -> UID:
    """UID of a part ("series", "instance 1" and the like) of a result in one form.

    Two destinations that ask for the same form in the same way get one object, else two: a PACS keeps the first of
    two objects with one UID. `refers_to` is the UID of the object that this one cannot be understood without.
    """
    label = context.series.label(form.kind)
    return result_uid(context, " ".join((form.key, part, str(label.number), label.description, refers_to)))


def lesion_tracking_uid(context: ResultContext, number: int) -> UID:
    """Tracking UID of a lesion, equal in SEG and SR."""
    return result_uid(context, f"lesion {number}")


def frame_of_reference_uid(series_instance_uid: str) -> UID:
    """Stands in where the source names no frame of reference: one per source series, whatever the bundle.

    A SEG must name one (PS3.3 A.51), and a random one would make the results of two runs look like two spaces. The
    slices themselves cannot be given it; viewers tie the SEG to them by the referenced instances.
    """
    return derive_uid("frame of reference", series_instance_uid)


IMPLEMENTATION_CLASS_UID = derive_uid("dicom-node", "implementation class")
"""(0002,0012): which software wrote the file."""
INSTANCE_CREATOR_UID = derive_uid("dicom-node", "instance creator")
"""(0008,0014): which device made the instance."""
