"""What a storage status means for the object: the one in a C-STORE response, and the reasons that STOW-RS gives.

PS3.18 section I.2.2 takes its failure reasons from C-STORE, so that one table serves both.
"""

from __future__ import annotations

from dicom_node.transport import Answer, later, never

STORED = (
    range(0x0002),
    range(0x0107, 0x0108),
    range(0x0111, 0x0112),
    range(0x0116, 0x0117),
    range(0xB000, 0xC000),
)
"""Success; warnings (PS3.7 C.4, PS3.4 B.2.3: elements coerced or discarded); duplicate SOP instance (PS3.7 C.5.8)."""
TRANSIENT = (range(0x0110, 0x0111), range(0x0213, 0x0214), range(0xA700, 0xA800))
"""Processing failure, resource limitation (PS3.7 C.5.21, C.5.22), out of resources (PS3.4 B.2.3): may heal."""
FORM_REFUSED = (range(0x0122, 0x0123), range(0xA900, 0xAA00), range(0xC000, 0x10000))
"""SOP class not supported (PS3.7 C.5.6); the object does not match its class, cannot be understood (PS3.4 B.2.3)."""
HINTS = {
    0x0122: "; the PACS must accept this SOP class, or a [[delivery.route]] with `kinds` keeps it away",
    0x0124: "; the PACS does not let this AE title store",
    0xA900: "; the PACS says that the object does not match its SOP class",
    0xC000: "; the PACS cannot understand the object",
}
"""What an administrator can do about it, by status (PS3.4 B.2.3: the rest of 0xA9xx and 0xCxxx is the peer's)."""


def judge(key: int, status: int, text: str) -> Answer:
    """The answer that a status makes; `text` says how it was answered."""
    if any(status in codes for codes in STORED):
        return Answer(key, sent=True, retryable=False, status=hexadecimal(status))
    if any(status in codes for codes in TRANSIENT):
        return later(key, hexadecimal(status), text)
    about_the_form = any(status in codes for codes in FORM_REFUSED)
    return never(key, hexadecimal(status), text + hint(status), form_refused=about_the_form)


def hint(status: int) -> str:
    """What an administrator can do about a failure status, or nothing."""
    family = 0xC000 if status >= 0xC000 else 0xA900 if 0xA900 <= status < 0xAA00 else status
    return HINTS.get(family, "")


def hexadecimal(status: int) -> str:
    """As people know it: 0x0122."""
    return f"0x{status:04X}"
