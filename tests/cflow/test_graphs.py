"""Repeated work: eager at first, then captured where that can be done, and always the same."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cflow_ad import DeviceWarning
from cflow_ad.cflow import graphs
from cflow_ad.cflow.graphs import OneAtATime, Repeated

CUDA = torch.device("cuda")


class FakeGraph:
    """Records calls as a CUDA graph does: what is called in the capture runs when replayed."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def cuda(monkeypatch):
    """CUDA graphs without a GPU; the fixture lists the modes of the captures."""
    modes = []

    @contextlib.contextmanager
    def graph(graph, *, stream, capture_error_mode):
        modes.append((stream, capture_error_mode))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream")
    return modes


def test_work_is_captured_after_its_first_runs_and_then_replayed(cuda):
    ran, captured = [], []
    repeated = Repeated(lambda: ran.append(1), CUDA, on_capture=captured.append)
    for _ in range(10):
        repeated()
    assert len(ran) == 4  # three, and the capture
    assert repeated._graph.replays == 7
    assert cuda == [("the stream", "thread_local")]
    assert captured == [True]


def test_work_that_cannot_be_captured_goes_on_as_it_is(cuda):
    ran, captured = [], []

    def work():
        if len(ran) == 3 and captured == [True]:
            raise RuntimeError("operation not permitted when stream is capturing")
        ran.append(1)

    repeated = Repeated(work, CUDA, on_capture=captured.append)
    for _ in range(3):
        repeated()
    with pytest.warns(DeviceWarning, match="not permitted"):
        repeated()
    for _ in range(6):
        repeated()
    assert len(ran) == 10
    assert captured == [True, False]


def test_work_on_a_cpu_is_never_captured():
    ran = []
    repeated = Repeated(lambda: ran.append(1), torch.device("cpu"))
    for _ in range(10):
        repeated()
    assert len(ran) == 10


def test_one_thread_captures_at_a_time(cuda, monkeypatch):
    """A capture waits for the device, which no other may be capturing on meanwhile."""
    inside, most = [], []

    @contextlib.contextmanager
    def graph(graph, **options):
        inside.append(graph)
        time.sleep(0.02)
        most.append(len(inside))
        yield
        inside.remove(graph)

    def run():
        repeated = Repeated(lambda: None, CUDA)
        for _ in range(4):
            repeated()

    monkeypatch.setattr(torch.cuda, "graph", graph)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(run) for _ in range(4)]:
            future.result()
    assert most == [1] * 4


def test_results_of_one_image_outlast_the_next_and_few_sizes_are_kept():
    network = OneAtATime(lambda: lambda x: [x * 2, x.sum(0)], torch.device("cpu"))
    inputs = [torch.full((1, size), value) for size in range(1, 8) for value in (1.0, 2.0)]
    results = [network(x) for x in inputs]
    for x, (doubled, total) in zip(inputs, results, strict=True):
        assert torch.equal(doubled, 2 * x)
        assert torch.equal(total, x.sum(0))
    assert len(network._kept) == graphs._KEPT
