"""A broker that each verdict is published to, at QoS 1.

Verdicts go to TOPIC/STATION/inspection. TOPIC/STATION/available holds `online` as long as the
station can inspect, else `offline`; where the connection breaks, the broker says so itself (last
will).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import StationError, optional_library
from cflow_ad.station.config import Mqtt
from cflow_ad.station.sinks.sink import Sink

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_EVERY = 0.1
_LONGEST_PAUSE = 30.0
_KEEPALIVE = 10


class MqttSink(Sink):
    """Publishes.

    Args:
        station: whose verdicts they are.
        config: which broker.

    Raises:
        DependencyError: aiomqtt is not installed.
        StationError: the password's file cannot be read.
    """

    name = "mqtt"

    def __init__(self, station: Station, config: Mqtt) -> None:
        super().__init__(station)
        with optional_library():
            import aiomqtt
        self._aiomqtt = aiomqtt
        self._config = config
        self._base = f"{config.topic}/{station.config.name}"
        self._password = None
        if config.password_file is not None:
            try:
                text = Path(config.password_file).expanduser().read_text(encoding="utf-8")
            except OSError as error:
                raise StationError(
                    f"{config.password_file}: the broker's password cannot be read "
                    f"({error.strerror})"
                ) from error
            self._password = text.strip()

    def run(self) -> None:
        """Connect, publish, and connect again, until the station stops."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        pause = 1.0
        while not self.stopping.is_set():
            try:
                async with self._client() as client:
                    pause = 1.0
                    await self._publish_all(client)
            except self._aiomqtt.MqttError as error:
                _LOG.warning("mqtt: %s:%d: %s", self._config.host, self._config.port, error)
                await self._sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            except Exception:
                _LOG.exception("mqtt: nothing can be published now")
                await self._sleep(pause)

    def _client(self) -> Any:
        return self._aiomqtt.Client(
            self._config.host,
            self._config.port,
            username=self._config.user,
            password=self._password,
            identifier=f"cflow-ad-{self.station.config.name}",
            will=self._aiomqtt.Will(f"{self._base}/available", "offline", qos=1, retain=True),
            keepalive=_KEEPALIVE,
            timeout=10,
            tls_context=ssl.create_default_context() if self._config.tls else None,
        )

    async def _publish_all(self, client: Any) -> None:
        told, at = "", 0.0
        while not self.stopping.is_set():
            state = "online" if self.station.problem() is None else "offline"
            if state != told or time.monotonic() - at > _KEEPALIVE:  # which shows a broken line too
                await client.publish(f"{self._base}/available", state, qos=1, retain=True)
                told, at = state, time.monotonic()
            messages = await asyncio.to_thread(self.outbox.due)
            for message in messages:
                # Returns when the broker has it; else it stays in the outbox.
                await client.publish(f"{self._base}/inspection", message.payload, qos=1)
            if messages:
                await asyncio.to_thread(self.outbox.sent, messages)
            else:
                await self._sleep(_EVERY)
        await client.publish(f"{self._base}/available", "offline", qos=1, retain=True)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.to_thread(self.stopping.wait, seconds)
