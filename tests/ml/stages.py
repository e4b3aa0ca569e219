"""What stands for bars in tests (`ml.progress.Stage`)."""

from __future__ import annotations

from ml.progress import Tell


class Stages:
    """Shows nothing, and remembers it."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}
        """The notes of each stage; stages in their order."""

    def __call__(self, name: str, _: int | None) -> Tell:
        """Opens a stage."""
        notes = self.seen.setdefault(name, [])

        def tell(note: str, _: int | None = None, /) -> None:
            notes.append(note)

        return tell
