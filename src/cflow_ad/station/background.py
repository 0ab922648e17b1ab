"""What a station does by itself: sources, sinks, training jobs and drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cflow_ad.station.sources.camera import CameraThread
from cflow_ad.station.sources.folder import WatchedFolder

if TYPE_CHECKING:
    from cflow_ad.station.station import Station


class Part(Protocol):
    """A part with threads of its own."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """Stop."""


def build_sinks(station: Station) -> list[Part]:
    """Build the sinks that the configuration names; each library is imported when it is needed.

    Raises:
        CflowError: one cannot be used, or its library is not installed.
    """
    config = station.config
    sinks: list[Part] = []
    if config.mqtt is not None:
        from cflow_ad.station.sinks.mqtt import MqttSink

        sinks.append(MqttSink(station, config.mqtt))
    if config.webhook is not None:
        from cflow_ad.station.sinks.webhook import WebhookSink

        sinks.append(WebhookSink(station, config.webhook))
    if config.csv is not None:
        from cflow_ad.station.sinks.csv_drop import CsvSink

        sinks.append(CsvSink(station, config.csv))
    if config.opcua is not None:
        from cflow_ad.station.sinks.opcua import OpcUaSink

        sinks.append(OpcUaSink(station, config.opcua))
    if config.modbus is not None:
        from cflow_ad.station.sinks.modbus import ModbusSink

        sinks.append(ModbusSink(station, config.modbus))
    return sinks


def build_sources(station: Station) -> tuple[list[WatchedFolder], dict[str, CameraThread]]:
    """Build the watched folders, and the cameras by name.

    Raises:
        StationError: one cannot be used.
    """
    folders = [WatchedFolder(station, each) for each in station.config.folders]
    return folders, {each.name: CameraThread(station, each) for each in station.config.cameras}
