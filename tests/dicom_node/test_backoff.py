"""Waits before another try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.backoff import backoff_s
from dicom_node.config_sections import DeliveryConfig, WorkerConfig


@pytest.mark.parametrize("section", [WorkerConfig, DeliveryConfig])
@given(failures=st.integers(1, 10_000), first_s=st.floats(0.1, 100), longest_s=st.floats(0.1, 5000))
def test_waits_grow_to_their_cap(
    section: type[WorkerConfig | DeliveryConfig], failures: int, first_s: float, longest_s: float
) -> None:
    """Between half the doubled wait and the whole of it, and never above the cap."""
    config = section(retry_first_s=first_s, retry_longest_s=longest_s)
    whole = min(longest_s, first_s * 2.0 ** min(failures - 1, 30))
    assert 0.5 * whole <= backoff_s(failures, config) <= whole
