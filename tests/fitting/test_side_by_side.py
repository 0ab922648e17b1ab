"""Trainings side by side: shares of the time, order, and the end of all where one fails."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from cflow_ad.fitting.side_by_side import run_all, run_in_turn

CPU = torch.device("cpu")


@pytest.fixture
def two_cores():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_results_are_in_the_order_of_the_trainings():
    def begin(number):
        def start(seconds, is_stopped):
            time.sleep(0.01 * (5 - number))
            yield
            return number

        return start

    assert run_all([begin(number) for number in range(5)], CPU, lanes=3) == [0, 1, 2, 3, 4]
    assert run_all([], CPU, lanes=3) == []


def test_trainings_take_turns_until_each_ends():
    order = []

    def training(number, turns):
        for _ in range(turns):
            order.append(number)
            yield
        return turns

    assert run_in_turn([training(0, 1), training(1, 3), training(2, 2)], CPU) == [1, 3, 2]
    assert order == [0, 1, 2, 1, 2, 1]


def test_each_has_an_equal_part_of_the_time_and_of_what_others_leave():
    given = []

    def start(seconds, is_stopped):
        given.append(seconds)
        return
        yield

    run_all([start] * 4, CPU, lanes=1, seconds=100)
    assert given == pytest.approx([25, 100 / 3, 50, 100], abs=1)
    given.clear()
    run_all([start] * 2, CPU, lanes=1, seconds=-1)
    assert given == [0, 0]


def test_a_computation_in_a_training_has_one_core(two_cores):
    def start(seconds, is_stopped):
        yield
        return torch.get_num_threads()

    assert run_all([start] * 3, CPU, lanes=1) == [1, 1, 1]


def test_where_one_fails_the_others_are_stopped_and_none_begins():
    begun = []

    def fail(seconds, is_stopped):
        begun.append("fail")
        raise ValueError("no")
        yield

    def never(seconds, is_stopped):
        begun.append("never")
        return
        yield

    with pytest.raises(ValueError, match="no"):
        run_all([fail, never, never], CPU, lanes=1)
    assert begun == ["fail"]


def test_a_failure_is_raised_before_a_longer_training_beside_it_ends(two_cores):
    is_running = threading.Event()

    def long(seconds, is_stopped):
        is_running.set()
        end = time.monotonic() + 30
        while not is_stopped() and time.monotonic() < end:
            time.sleep(0.01)
        yield

    def fail(seconds, is_stopped):
        is_running.wait(10)
        raise ValueError("no")
        yield

    began = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        run_all([long, fail], CPU, lanes=1)
    assert time.monotonic() - began < 20


def test_trainings_stop_where_the_work_is_in_vain():
    turns = []

    def start(seconds, is_stopped):
        while not is_stopped():
            turns.append(seconds)
            yield

    assert run_all([start] * 3, CPU, lanes=1, is_ending=lambda: len(turns) >= 5) == [None]
    assert len(turns) == 5
