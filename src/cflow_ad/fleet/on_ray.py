"""Workers that are Ray actors, on one machine or many."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import SettingsError, first_line, optional_library
from cflow_ad.fleet.pool import Pool, Reply, Work, attempt_task
from cflow_ad.process import tune_process, usable_cores

if TYPE_CHECKING:
    from cflow_ad.fleet.engines import Engine

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory of the Ray that is started on this machine: tasks and results are small.
"""

_LOOPBACK = "127.0.0.1"
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # read on every system, whatever its name
    "RAY_worker_niceness": "0",  # like the workers of the engine `local`; Ray's own would be 15
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report its use to its makers
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


@contextlib.contextmanager
def open_cluster(engine: Engine) -> Iterator[Callable[[Callable[[int], Callable[[], Work]]], Pool]]:
    """Join the Ray cluster of an engine, or start Ray on this machine; leave it at the end.

    Yields:
        A function that starts the workers.

    Raises:
        DependencyError: Ray is not installed.
        SettingsError: The cluster cannot be joined, or is too small.
    """
    address = engine.address or os.environ.get("RAY_ADDRESS")
    ray = import_ray(alone=address is None)
    own: dict[str, Any] = {}
    if address is None:
        own = {
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_node_ip_address": _LOOPBACK,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        except Exception as error:  # Ray raises just that where a node does not start in time
            raise SettingsError(
                f"the Ray cluster {address or 'of this machine'} cannot be used "
                f"({first_line(error)}); check --address and the load of the machine"
            ) from error
    try:
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        if engine.gpus and not gpus:
            raise SettingsError("the Ray cluster has no GPU; leave out --gpus")
        workers, threads = engine.share(cores, gpus)
        most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        threads = threads if engine.threads else min(threads, most)
        yield lambda build: RayPool(ray, build(threads), workers, threads, engine.gpus)
    finally:
        ray.shutdown()


def import_ray(*, alone: bool) -> Any:
    """Import Ray, so that it reports nothing to its makers and warns of nothing of its own.

    Args:
        alone: Whether Ray runs on this machine alone. Then it listens on the loopback interface;
            else Linux would have it on all.

    Raises:
        DependencyError: It is not installed.
    """
    for name, value in (_QUIET | _ALONE if alone else _QUIET).items():
        os.environ.setdefault(name, value)
    with optional_library(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    return ray


class _Actor:
    """One worker, in a process of its own."""

    def __init__(self, build: Callable[[], Work], threads: int) -> None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        tune_process()
        self._build = build
        self._work: Work | None = None

    def run(self, task: Any) -> Reply:
        def do(task: Any) -> Any:
            self._work = self._work or self._build()
            return self._work(task)

        return attempt_task(do, task)

    def process(self) -> int:
        return os.getpid()


class RayPool:
    """Workers that are actors; one that is lost with its node starts again elsewhere.

    Where the cluster has become too small for all of them, tasks wait for the workers that there
    are: one that has no place yet holds its task until it has, or until another is free.

    Args:
        ray: The module, which has joined a cluster.
        build: Makes what does a task, in a worker; can be pickled.
        size: Number of workers.
        threads: Cores of each.
        gpus: GPUs of each; may be a fraction.
    """

    def __init__(
        self, ray: Any, build: Callable[[], Work], size: int, threads: int, gpus: float
    ) -> None:
        self.size = size
        self.threads = threads
        self._ray = ray
        self._build = build
        self._type = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(_Actor)
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._processes: dict[int, int] = {}
        self._held: dict[int, Any] = {}
        self._running: dict[Any, int] = {}

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers that have been started, on whatever node."""
        return list(self._processes.values())

    def submit(self, slot: int, task: Any) -> None:
        if slot not in self._actors:
            self._start(slot)
        if slot in self._starting.values():
            self._held[slot] = task
        else:
            self._run(slot, task)

    def wait(self) -> tuple[int, Reply]:
        while True:
            done, _ = self._ray.wait([*self._running, *self._starting], num_returns=1)
            if (ended := done[0]) in self._running:
                return self._finish(self._running.pop(ended), ended)
            slot = self._starting.pop(ended)
            try:
                self._processes[slot] = self._ray.get(ended)
            except self._ray.exceptions.RayError:
                self._drop(slot)
                if slot in self._held:
                    del self._held[slot]
                    return slot, Reply(died=True)
            else:
                if slot in self._held:
                    self._run(slot, self._held.pop(slot))

    def close(self) -> None:
        for slot in list(self._actors):
            self._drop(slot)

    def _start(self, slot: int) -> None:
        self._actors[slot] = actor = self._type.remote(self._build, self.threads)
        self._starting[actor.process.remote()] = slot

    def _run(self, slot: int, task: Any) -> None:
        self._running[self._actors[slot].run.remote(task)] = slot

    def _finish(self, slot: int, ended: Any) -> tuple[int, Reply]:
        try:
            reply = self._ray.get(ended)
        except self._ray.exceptions.RayError:  # the actor, its node or its result is lost
            self._drop(slot)
            return slot, Reply(died=True)
        if self._held:
            self._swap(slot, next(iter(self._held)))
        return slot, reply

    def _swap(self, free: int, waiting: int) -> None:
        """Give a worker that is free to a slot whose own has no place yet."""
        actors = self._actors
        actors[free], actors[waiting] = actors[waiting], actors[free]
        self._processes[waiting] = self._processes.pop(free)
        ref = next(ref for ref, slot in self._starting.items() if slot == waiting)
        self._starting[ref] = free
        self._run(waiting, self._held.pop(waiting))

    def _drop(self, slot: int) -> None:
        self._processes.pop(slot, None)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actors.pop(slot))
