"""Alembic migrations of the node's schema."""
