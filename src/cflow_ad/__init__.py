"""Anomaly detection with conditional normalizing flows (CFLOW-AD, WACV 2022)."""

from cflow_ad._version import __version__

__all__ = ["__version__"]
