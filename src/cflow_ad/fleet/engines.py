"""Where tasks run: worker processes of this machine, or Ray actors of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cflow_ad.errors import SettingsError
from cflow_ad.fleet.pool import LocalPool, Pool, Work
from cflow_ad.process import usable_cores

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Where and how to run.

    Raises:
        SettingsError: A value is not possible.
    """

    name: str = "local"
    """`local` or `ray`."""
    workers: int | None = None
    """Tasks at a time, at most one for each core; unset, that many, or one for each GPU."""
    threads: int | None = None
    """Cores of each worker; unset, the cores divided by the workers."""
    decoders: int = 0
    """Cores beside those of each worker, for what decodes images for it."""
    gpus: float = 0.0
    """GPUs of each worker; below 1, several workers share one."""
    address: str | None = None
    """Of the Ray cluster; unset, that of `RAY_ADDRESS`, else Ray starts on this machine alone."""

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise SettingsError(f"engine {self.name!r} is unknown; give {' or '.join(ENGINES)}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise SettingsError(f"gpus is {self.gpus}: give a fraction of one, or a whole number")
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}: it must be at least 1")

    @contextlib.contextmanager
    def open(self, build: Callable[[int], Callable[[], Work]]) -> Iterator[Pool]:
        """Start the workers, and end them at the end of the block.

        Args:
            build: Makes from the number of threads what makes the work, in a worker.

        Raises:
            DependencyError: Ray is not installed.
            SettingsError: There are not enough cores, or there is no cluster.
        """
        if self.name == "ray":
            from cflow_ad.fleet.on_ray import open_cluster

            with open_cluster(self) as pool_of:
                pool = pool_of(build)
                try:
                    yield pool
                finally:
                    pool.close()
            return
        workers, threads = self.share(usable_cores())
        local = LocalPool(build(threads), size=workers, threads=threads, gpus=self.gpus)
        try:
            yield local
        finally:
            local.close()

    def share(self, cores: int, gpus: int = 0) -> tuple[int, int]:
        """Divide cores among workers, so that none is used twice.

        Args:
            cores: In all.
            gpus: In all; they limit the number of workers where each needs one.

        Returns:
            Number of workers, and cores of each.

        Raises:
            SettingsError: One worker has more cores than there are.
        """
        least = (self.threads or 1) + self.decoders
        if least > cores:
            raise SettingsError(
                f"a worker needs {least} cores, and there are {cores}; give fewer threads or "
                "decoders"
            )
        workers = min(self.workers or cores, cores // least)
        threads = self.threads or cores // workers - self.decoders
        if self.gpus and gpus and self.workers is None:
            workers = min(workers, max(1, int(gpus / self.gpus)))
        return workers, threads
