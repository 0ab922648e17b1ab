"""Counts and times, as Prometheus reads them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of a station.

    Args:
        station: whose they are.
    """

    def __init__(self, station: Station) -> None:
        self._registry = registry = CollectorRegistry()
        self._inspections = Counter(
            "cflow_ad_inspections",
            "Inspections that were recorded",
            ["model", "verdict"],
            registry=registry,
        )
        self._scoring = Histogram(
            "cflow_ad_scoring_seconds",
            "From the begin of decoding to the verdict",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._waiting = Histogram(
            "cflow_ad_queue_seconds",
            "From the arrival of an image to the begin of decoding",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "cflow_ad_refused", "Requests that were refused", ["status"], registry=registry
        )
        gauges = {
            "cflow_ad_waiting": ("Images that wait or are scored", lambda: station.scorers.waiting),
            "cflow_ad_unwritten": (
                "Records that wait to be written",
                lambda: station.database.waiting,
            ),
            "cflow_ad_ready": ("1 where the station can inspect", lambda: not station.problem()),
            "cflow_ad_disk_free_bytes": (
                "Free space where pictures are kept",
                lambda: shutil.disk_usage(station.config.data).free,
            ),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)

    def note(self, row: dict[str, Any]) -> None:
        """Count an inspection."""
        verdict = "anomalous" if row["is_anomalous"] else "good"
        self._inspections.labels(row["model"], verdict).inc()
        self._scoring.labels(row["model"]).observe(row["latency_ms"]["score"] / 1000)
        self._waiting.labels(row["model"]).observe(row["latency_ms"]["queue"] / 1000)

    def note_refusal(self, status: int) -> None:
        """Count a request that was refused."""
        self._refused.labels(str(status)).inc()

    def render(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
