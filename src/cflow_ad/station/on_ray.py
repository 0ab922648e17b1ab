"""The station as a deployment of Ray Serve, which starts it again where its process or node fails.

Ray Serve's own process listens; it hands requests to the process of the station, and holds those
that the station cannot take yet. More than it may hold are refused with 429, as the station does.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from cflow_ad.errors import StationError, optional_library
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.on_ray import import_ray, open_cluster
from cflow_ad.station.config import StationConfig

_NAME = "cflow-ad"
_RETRY_SECONDS = 1


def run_on_ray(
    config: StationConfig,
    *,
    queue: int,
    address: str | None = None,
    say: Callable[[str], None],
) -> None:
    """Serve until a signal stops it.

    Args:
        config: of the station; its folder of data is one that every node can use.
        queue: requests that Ray Serve holds beside those that the station has.
        address: of the Ray cluster; unset, that of `RAY_ADDRESS`, else Ray starts here.
        say: prints a line for the person at the terminal.

    Raises:
        DependencyError: Ray Serve is not installed.
        SettingsError: the cluster cannot be used.
        StationError: there would be no way to log in, or the station did not start.
    """
    if config.key_file is None:
        raise StationError(
            "on Ray nobody would see the first password: give --key-file FILE, where every node "
            "can write"
        )
    import_ray(alone=(address or os.environ.get("RAY_ADDRESS")) is None)
    with optional_library():
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with open_cluster(Engine("ray", address=address)):
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            serve.run(build_deployment(config, queue).bind(), name=_NAME)
            say(f"http://{config.host}:{config.port}: ready on Ray; API key in {config.key_file}")
            threading.Event().wait()
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise StationError(
                f"the station did not start on Ray ({reason}); the logs of its replica tell more"
            ) from error
        finally:
            serve.shutdown()


def build_deployment(config: StationConfig, queue: int) -> Any:
    """Build the deployment: one station, which a folder of data has room for."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    deployment = serve.deployment(
        name=_NAME,
        num_replicas=1,
        # More than the station takes, so that its own answer 429 is given.
        max_ongoing_requests=2 * config.limits.queue,
        max_queued_requests=queue,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_SECONDS),
        ray_actor_options={"num_cpus": config.workers or 1},
    )

    def build() -> Any:  # in the process that serves it
        from cflow_ad.station.app import create_app
        from cflow_ad.station.station import Station

        station = Station(config)
        assert config.key_file is not None, "`run_on_ray` requires it"
        station.auth.key_in_file(config.key_file)
        return create_app(config, station)

    return deployment(serve.ingress(build)())
