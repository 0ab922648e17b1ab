"""One run over a manifest, and the state of a fleet."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.manifest import Product
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.pool import Outcome, Pool, run_tasks
from cflow_ad.fleet.training import Trained, Trainer, job_name
from cflow_ad.fleet.versions import Version, now

State = Literal["trained", "kept", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table shows of a product."""

    product: str
    state: State
    """`trained`, now or in an earlier run; `kept`, found in the store by this run; `failed`; or
    `waiting`, to be trained by another run."""
    version: str | None = None
    """The newest version."""
    promoted: str | None = None
    """The version that is used."""
    n_images: int | None = None
    threshold: float | None = None
    achieved_rate: float | None = None
    flags: dict[str, str] = field(default_factory=dict)
    """What a person should look at."""
    attempts: int = 0
    """In the last run."""
    seconds: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def train_products(
    products: Sequence[Product],
    place: str,
    engine: Engine,
    *,
    device: str | None = None,
    work: str | None = None,
    attempts: int = 3,
    opened: Callable[[Pool], None] = lambda pool: None,
) -> Iterator[Row]:
    """Train the products that the store has no version of.

    A failure of one leaves the others alone; it is recorded in the store.

    Args:
        products: of a manifest.
        place: of the model store.
        engine: where to run.
        device: as for `Detector.fit`.
        work: as for `Trainer`.
        attempts: how often a product is tried whose error may not come again.
        opened: called with the pool of workers.

    Yields:
        A row for each product, in the order in which they end.

    Raises:
        CflowError: The store or the engine cannot be used.
    """
    store = ModelStore(place)
    run = f"{now().replace(':', '')}-{uuid.uuid4().hex[:8]}"  # no file system forbids it
    usable = [product for product in products if not product.error]

    with engine.open(lambda threads: partial(Trainer, place, threads, device, work)) as pool:
        opened(pool)
        threads = pool.threads
        store.add_run(run, [_asked(product, threads) for product in products])
        for product in products:
            if product.error:
                yield _failed(store, run, product.name, product.error, 1)
        for outcome in run_tasks(pool, usable, attempts=attempts):
            yield _row(store, run, outcome)


def _asked(product: Product, threads: int) -> dict[str, Any]:
    job = "" if product.error else job_name(product, threads)
    return {"product": product.name, "good": product.good, "job": job}


def _row(store: ModelStore, run: str, outcome: Outcome[Product]) -> Row:
    name = outcome.task.name
    if (failure := outcome.failure) is not None:
        return _failed(store, run, name, failure.reason, outcome.attempts, failure.details)
    trained: Trained = outcome.value
    state: State = "trained" if trained.is_new else "kept"
    return of_version(trained.version, state, store.promoted(name), outcome.attempts)


def _failed(
    store: ModelStore, run: str, name: str, error: str, attempts: int, details: str = ""
) -> Row:
    failure = {"error": error, "attempts": attempts, "details": details, "at": now()}
    store.add_failure(run, name, failure)
    return Row(product=name, state="failed", error=error, attempts=attempts)


def of_version(
    version: Version, state: State, promoted: str | None, attempts: int = 0, error: str = ""
) -> Row:
    """Build the row of a product that has a version."""
    return Row(
        product=version.product,
        state=state,
        version=version.version,
        promoted=promoted,
        n_images=version.n_images,
        threshold=version.threshold,
        achieved_rate=version.achieved_rate,
        flags=version.flags,
        attempts=attempts,
        seconds=version.seconds,
        error=error,
    )


def fleet_status(store: ModelStore) -> list[Row]:
    """Return a row for each product of the last run, then for the others in the store."""
    asked, failures = store.last_run()
    versions: dict[str, list[Version]] = {}
    for version in store.versions():
        versions.setdefault(version.product, []).append(version)
    promoted = store.all_promoted()
    rows = []
    jobs = {item["product"]: item["job"] for item in asked}
    for name in [*jobs, *sorted(set(versions) - set(jobs))]:
        of_product = versions.get(name, [])
        failure = failures.get(name)
        state: State = "trained"
        if failure is not None:
            state = "failed"
        elif name in jobs and not any(version.job == jobs[name] for version in of_product):
            state = "waiting"
        error = failure["error"] if failure else ""
        attempts = failure["attempts"] if failure else 0
        if of_product:
            rows.append(of_version(of_product[-1], state, promoted.get(name), attempts, error))
        else:
            rows.append(Row(product=name, state=state, attempts=attempts, error=error))
    return rows
