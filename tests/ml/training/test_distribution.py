"""Work is shared out among the processes of a group."""

import pytest

from ml.training import distribution


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_item_goes_to_one_process(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one and not to all, and to nearly as many each."""
    monkeypatch.setattr(distribution, "world_size", lambda: processes)
    parts = []
    for number in range(processes):
        monkeypatch.setattr(distribution, "rank", lambda number=number: number)
        parts.append(distribution.share(range(7)))
    assert sorted(item for part in parts for item in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
