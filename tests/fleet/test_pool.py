"""Laws of running tasks on workers that die."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cflow_ad.errors import DataError, SettingsError
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.pool import LocalPool, run_tasks


class Once:
    """Does a task; one in `folder/bad` fails, one in `folder/deadly` ends its worker, once each."""

    def __init__(self, folder: Path, *, always: bool = False) -> None:
        self.folder = folder
        self.always = always

    def __call__(self, task: int) -> tuple[int, int, str]:
        for kind in ("deadly", "bad", "wrong"):
            mark = self.folder / kind / str(task)
            if mark.exists():
                if not self.always:
                    mark.unlink()
                if kind == "deadly":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise (DataError if kind == "wrong" else OSError)(f"{task} is {kind}")
        return task, os.getpid(), os.environ["OMP_NUM_THREADS"]


@pytest.fixture
def folder(tmp_path):
    for kind in ("bad", "deadly", "wrong"):
        (tmp_path / kind).mkdir()
    return tmp_path


def mark(folder, kind, *tasks):
    for task in tasks:
        (folder / kind / str(task)).touch()


@pytest.fixture
def pool_of(request):
    pools = []

    def build(work, size=2, threads=1):
        pools.append(LocalPool(partial(_same, work), size=size, threads=threads))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


def _same(work):
    return work


def test_every_task_is_done_once_whatever_dies_or_fails(folder, pool_of):
    mark(folder, "deadly", 0, 3, 4)
    mark(folder, "bad", 1, 3)
    mark(folder, "wrong", 5)
    ends = {outcome.task: outcome for outcome in run_tasks(pool_of(Once(folder)), range(8))}
    assert len(ends) == 8
    assert ends[5].failure.reason == "5 is wrong"
    assert ends[5].failure.is_final
    done = [ends[task] for task in range(8) if task != 5]
    assert [end.value[0] for end in done] == [0, 1, 2, 3, 4, 6, 7]
    assert [ends[task].attempts for task in range(8)] == [2, 2, 1, 3, 2, 1, 1, 1]
    assert {end.value[2] for end in done} == {"1"}


def test_a_task_that_always_fails_or_kills_is_given_up(folder, pool_of):
    mark(folder, "deadly", 0)
    mark(folder, "bad", 1)
    pool = pool_of(Once(folder, always=True))
    ends = {end.task: end for end in run_tasks(pool, range(4), attempts=2, deaths=3)}
    assert ends[0].attempts == 3
    assert "died 3 times" in ends[0].failure.reason
    assert ends[1].attempts == 2
    assert ends[1].failure.reason == "OSError: 1 is bad"
    assert "Traceback" in ends[1].failure.details
    assert [ends[task].failure for task in (2, 3)] == [None, None]


def test_tasks_are_taken_no_further_ahead_than_there_are_workers(folder, pool_of):
    taken = []
    tasks = (taken.append(number) or number for number in itertools.count())
    outcomes = run_tasks(pool_of(Once(folder)), tasks)
    for done in range(1, 6):
        next(outcomes)
        assert len(taken) <= done + 1


DRIVER = """
import time
from cflow_ad.fleet.pool import LocalPool
class Sleep:
    def __call__(self, task):
        time.sleep(600)
if __name__ == "__main__":
    pool = LocalPool(Sleep, size=2, threads=1)
    pool.submit(0, 0)
    pool.submit(1, 1)
    print(*pool.processes, flush=True)
    pool.wait()
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True
    )
    with driver:
        workers = [int(number) for number in driver.stdout.readline().split()]
        assert len(workers) == 2
        driver.kill()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cores_are_shared_so_that_none_is_used_twice():
    assert Engine().share(8) == (8, 1)
    assert Engine(workers=2).share(8) == (2, 4)
    assert Engine(workers=3).share(8) == (3, 2)
    assert Engine(threads=3).share(8) == (2, 3)
    assert Engine(workers=4, threads=4).share(8) == (2, 4)
    assert Engine(workers=40).share(8) == (8, 1)
    assert Engine(gpus=0.5).share(64, gpus=4) == (8, 1)
    assert Engine(workers=2, decoders=3).share(8) == (2, 1)
    assert Engine(decoders=3).share(8) == (2, 1)
    for asked in (Engine(threads=9), Engine(threads=2, decoders=7)):
        with pytest.raises(SettingsError, match="needs 9 cores, and there are 8"):
            asked.share(8)
    for wrong in ({"name": "spark"}, {"workers": 0}, {"gpus": 1.5}, {"gpus": -1.0}):
        with pytest.raises(SettingsError):
            Engine(**wrong)
