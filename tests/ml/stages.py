"""What stands for bars in tests (`ml.progress.Stage`)."""

from __future__ import annotations

from ml.progress import Tell


class Stages:
    """Shows nothing, and remembers it."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}
        """The notes of each stage; stages in their order."""
        self.done: dict[str, int] = {}
        """How far each stage came."""

    def __call__(self, name: str, _: int | None) -> Tell:
        """Opens a stage."""
        notes = self.seen.setdefault(name, [])
        self.done[name] = 0

        def tell(note: str, done: int | None = None, /) -> None:
            notes.append(note)
            self.done[name] = self.done[name] + 1 if done is None else done

        return tell
