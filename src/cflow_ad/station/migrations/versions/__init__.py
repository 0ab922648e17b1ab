"""The changes, by their number."""
