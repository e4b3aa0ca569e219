"""Networks as published, written from their papers."""
