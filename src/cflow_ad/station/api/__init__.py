"""The routes under /v1, and those for health and metrics."""
