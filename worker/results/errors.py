"""Errors of result writing.

`ResultInvalid` is an object that must not be sent; it is never retried with the same input. Its `code` is stable and
may be stored, `str(error)` is one sentence for people: attribute keywords and UIDs only, never a patient's name, id or
birth date.
"""


class ResultInvalid(Exception):
    """A result that failed the gate before sending, or that cannot be written from this source."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
