"""Run the station in a web server until it is stopped."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from cflow_ad.errors import StationError
from cflow_ad.station.app import create_app
from cflow_ad.station.config import StationConfig
from cflow_ad.station.station import Station

_CONNECTIONS = 1000
_STOP_SECONDS = 20


def open_server(
    config: StationConfig, say: Callable[[str], None], *, new_admin_password: bool = False
) -> uvicorn.Server:
    """Open a station and a server for it, whose `run` serves until a signal stops it.

    Args:
        config: of the station.
        say: prints a line for the person at the terminal.
        new_admin_password: set a new password for the user admin, and say it.

    Raises:
        CflowError: the station cannot be opened; it cannot listen there; or it would listen to
            other machines without any key.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    listening = _listen(config)
    try:
        station = Station(config)
    except BaseException:
        listening.close()
        raise
    try:
        if config.key_file is not None:
            station.auth.key_in_file(config.key_file)
            say(f"API key: in {config.key_file}")
        if not config.is_local and not station.auth.has_keys():
            raise StationError(
                f"--host {config.host}: other machines could reach the station, and it has no API "
                "key yet; give --key-file FILE, or listen on 127.0.0.1"
            )
        password = station.auth.first_password()
        if password is None and new_admin_password:
            password = station.auth.new_password("admin")
        if password is not None:
            say(f"user admin, password {password} (it is shown only now)")
        return _Server(
            uvicorn.Config(
                create_app(config, station),
                host=config.host,
                port=config.port,
                log_level="warning",
                access_log=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_SECONDS,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                ssl_certfile=config.certificate,
                ssl_keyfile=config.certificate_key,
            ),
            listening,
            station,
            say,
        )
    except BaseException:
        station.close()
        listening.close()
        raise


def _listen(config: StationConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise StationError(
            f"{config.host}:{config.port}: the station cannot listen there ({error.strerror}); "
            "choose another --port or --host"
        ) from error


class _Server(uvicorn.Server):
    """Says where it listens, and ends streams of news when it is to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        station: Station,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._station = station
        self._say = say

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve."""
        super().run(sockets or [self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            scheme = "https" if self.config.is_ssl else "http"
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._say(
                f"{scheme}://{host}:{port}: ready ({', '.join(self._station.registry.names())})"
            )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop: the streams first, which would else hold it up."""
        self._station.broadcast.close()
        super().handle_exit(sig, frame)
