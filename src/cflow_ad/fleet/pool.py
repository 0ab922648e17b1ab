"""Run many tasks on workers that may die: each is done once, or its failure is reported."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from cflow_ad.errors import CflowError, StoreError, TrainingError, first_line

Task = TypeVar("Task")
Work = Callable[[Any], Any]
BuildWork = Callable[[], Work]

ATTEMPTS = 3
"""How often a task is tried that raises an error which may not come again."""

DEATHS = 20
"""How often a task is tried whose worker dies, as it may be the task that kills it."""


class Failure(NamedTuple):
    """Why a task failed."""

    reason: str
    """A line for people."""
    is_final: bool
    """Whether it would fail again: the input is wrong."""
    details: str = ""
    """The traceback of a fault of the program."""


class Reply(NamedTuple):
    """What came of one attempt at a task; neither value nor failure where the worker died."""

    value: Any = None
    failure: Failure | None = None
    died: bool = False


@dataclass
class Attempt(Generic[Task]):
    """A task, and how often it was tried."""

    task: Task
    errors: int = 0
    deaths: int = 0

    @property
    def count(self) -> int:
        """Attempts up to now, the present one included."""
        return 1 + self.errors + self.deaths


class Outcome(NamedTuple, Generic[Task]):
    """The end of a task."""

    task: Task
    value: Any
    failure: Failure | None
    attempts: int


class Pool(Protocol):
    """Workers that do one task at a time, each built in its own process."""

    size: int
    threads: int
    """Cores of each worker."""

    def submit(self, slot: int, task: Any) -> None:
        """Give a task to the worker of a slot, 0 to `size` - 1, which has none."""

    def wait(self) -> tuple[int, Reply]:
        """Wait for any task; a worker that died is replaced."""

    def close(self) -> None:
        """End the workers."""


def run_tasks(
    pool: Pool, tasks: Iterable[Task], *, attempts: int = ATTEMPTS, deaths: int = DEATHS
) -> Iterator[Outcome[Task]]:
    """Run tasks, as many at a time as there are workers.

    The tasks are consumed no further ahead than there are workers, so that there may be any number.
    One whose worker dies is given to another. One that raises an error is tried again, unless the
    input is at fault.

    Args:
        pool: Of workers, all idle.
        tasks: What they can do.
        attempts: Errors after which a task has failed.
        deaths: Deaths of its worker after which it has failed.

    Yields:
        The end of each task, in the order in which they end.
    """
    source, again = iter(tasks), deque[Attempt[Task]]()
    idle = list(reversed(range(pool.size)))
    running: dict[int, Attempt[Task]] = {}

    def following() -> Attempt[Task] | None:
        if again:
            return again.popleft()
        return next((Attempt(task) for task in source), None)

    while True:
        while idle and (attempt := following()) is not None:
            slot = idle.pop()
            running[slot] = attempt
            pool.submit(slot, attempt.task)
        if not running:
            return
        slot, reply = pool.wait()
        attempt = running.pop(slot)
        idle.append(slot)
        count = attempt.count
        if reply.died:
            attempt.deaths += 1
            if attempt.deaths < deaths:
                again.append(attempt)
                continue
            reason = f"its worker died {deaths} times; it may need more memory"
            reply = Reply(failure=Failure(reason, is_final=False))
        elif reply.failure is not None and not reply.failure.is_final:
            attempt.errors += 1
            if attempt.errors < attempts:
                again.append(attempt)
                continue
        yield Outcome(attempt.task, reply.value, reply.failure, count)


def attempt_task(work: Work, task: Any) -> Reply:
    """Do a task in a worker, and catch its error."""
    try:
        return Reply(value=work(task))
    except (StoreError, TrainingError) as error:
        return Reply(failure=Failure(str(error), is_final=False))
    except CflowError as error:
        return Reply(failure=Failure(str(error), is_final=True))
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return Reply(failure=Failure(reason, is_final=False, details=traceback.format_exc()))


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    busy: bool = field(default=False)


class LocalPool:
    """Workers that are processes of this machine; they end with the process that started them.

    Args:
        build: Makes what does a task, in a worker; can be pickled.
        size: Number of workers.
        threads: Cores of each worker.
        gpus: GPUs of each worker; a fraction where workers share one, 0 for none.
    """

    def __init__(self, build: BuildWork, *, size: int, threads: int, gpus: float = 0.0) -> None:
        self.size = size
        self._build = build
        self.threads = threads
        self._gpus = gpus
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers that have been started."""
        return [worker.process.pid for worker in self._workers.values()]

    def submit(self, slot: int, task: Any) -> None:
        worker = self._workers.get(slot) or self._start(slot)
        worker.busy = True
        with contextlib.suppress(OSError):  # it died: `wait` will find out
            worker.pipe.send(task)

    def wait(self) -> tuple[int, Reply]:
        slots = {worker.pipe: slot for slot, worker in self._workers.items() if worker.busy}
        pipe = connection.wait(list(slots))[0]
        assert isinstance(pipe, connection.Connection)
        slot = slots[pipe]
        worker = self._workers[slot]
        worker.busy = False
        try:
            return slot, pipe.recv()
        except (EOFError, OSError):
            self._end(self._workers.pop(slot))
            return slot, Reply(died=True)

    def close(self) -> None:
        for worker in self._workers.values():
            self._end(worker)
        self._workers.clear()

    def _start(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._build), name=f"worker {slot}", daemon=True
        )
        with _environment(self._variables(slot)):
            process.start()
        theirs.close()
        self._workers[slot] = worker = _Worker(process, ours)
        return worker

    def _variables(self, slot: int) -> dict[str, str]:
        variables = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            first = int(slot * self._gpus)
            mine = range(first, first + max(1, int(self._gpus)))
            known = visible != [""]
            names = [visible[number % len(visible)] if known else str(number) for number in mine]
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        return variables

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        worker.process.close()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: connection.Connection, build: BuildWork) -> None:
    """Do tasks until the pipe closes: the whole life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends us
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    from cflow_ad.process import tune_process

    tune_process()
    work: Work | None = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return

        def do(task: Any) -> Any:
            nonlocal work
            work = work or build()
            return work(task)

        reply = attempt_task(do, task)
        with contextlib.suppress(OSError):
            pipe.send(reply)


def _end_with(sentinel: Any) -> None:
    """End this process when the one that started it has ended, however that came."""
    connection.wait([sentinel])
    os._exit(1)
