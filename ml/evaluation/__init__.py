"""Metrics and statistics. No torch."""
