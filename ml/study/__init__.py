"""The paper's study on simulated institutions: every model trained, ranked and judged, for `python -m ml tables`."""
