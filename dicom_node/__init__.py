"""Instances: receiving, keeping, choosing, tracking and sending DICOM objects. Never loads torch."""

__version__ = "0.1.0"
