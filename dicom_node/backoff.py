"""How long to wait before something that failed is tried again: jobs, deliveries and reports alike."""

from __future__ import annotations

import random

from dicom_node.config_sections import DeliveryConfig, WorkerConfig


def backoff_s(failures: int, config: WorkerConfig | DeliveryConfig) -> float:
    """Seconds to wait after failure number `failures` (from 1): doubling, capped, with jitter of half to whole."""
    longest = min(config.retry_longest_s, config.retry_first_s * 2.0 ** min(failures - 1, 30))
    return longest * random.uniform(0.5, 1.0)
