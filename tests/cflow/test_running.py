"""Results come in the images' order, each from its image alone, whichever thread computes it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from cflow_ad import ImageError
from cflow_ad.cflow import running
from cflow_ad.cflow.running import run_over
from cflow_ad.scoring.canvas import Sizing
from cflow_ad.scoring.view import View

VIEW = View(sizing=Sizing.parse("native"))


def image(value, shape=(32, 32)):
    return np.full((*shape, 3), value, np.uint8)


def run(sources, *, threads=None, **options):
    """The mean and the height of each image, and the first dimension of each network's input."""
    batches = []

    def network(pixels):
        batches.append(len(pixels))
        if threads is not None:
            threads.append((pixels.shape[1], threading.get_ident()))
        return [pixels.float().mean((1, 2, 3)), pixels.float().amax((1, 2, 3))]

    def finish(canvas, levels):
        assert levels[0] == levels[1]
        return float(levels[0]), canvas.original[0]

    found = run_over(network, finish, sources, VIEW, device=torch.device("cpu"), **options)
    return [result for _, result in found], batches


def test_results_are_in_order_and_images_go_one_at_a_time_on_a_cpu():
    sources = [image(n, (32 + 32 * (n % 3), 32)) for n in range(20)]
    expected = [(n, 32 + 32 * (n % 3)) for n in range(20)]
    for given in (sources, iter(sources)):
        results, batches = run(given)
        assert results == expected
        assert batches == [1] * 20


def test_large_images_are_computed_by_the_caller_and_others_are_not(monkeypatch):
    monkeypatch.setattr(running, "LARGE", 64 * 64)
    threads = []
    results, _ = run([image(n, (32 + 64 * (n % 2), 64)) for n in range(8)], threads=threads)
    assert results == [(n, 32 + 64 * (n % 2)) for n in range(8)]
    own = threading.get_ident()
    assert all((thread == own) == (height == 96) for height, thread in threads)


def test_an_image_that_cannot_be_used_is_left_out_or_raised(tmp_path):
    missing = tmp_path / "missing.png"
    sources = [image(1), missing, image(2)]
    failed = []
    results, _ = run(sources, on_error=lambda source, error: failed.append(source))
    assert results == [(1, 32), (2, 32)]
    assert failed == [missing]
    with pytest.raises(ImageError, match=r"missing\.png"):
        run(sources)


def test_images_of_one_size_go_together_on_other_devices():
    """As on a GPU; pixels on the meta device have no values."""
    sources = [image(n, (32 if n < 5 else 64, 32)) for n in range(8)]
    batches = []

    def network(pixels):
        batches.append(tuple(pixels.shape[:2]))
        return [torch.arange(len(pixels)) + 10 * len(batches)]

    found = run_over(
        network,
        lambda canvas, levels: int(levels[0]),
        sources,
        VIEW,
        device=torch.device("meta"),
        batch_size=3,
    )
    assert [result for _, result in found] == [10, 11, 12, 20, 21, 30, 31, 32]
    assert batches == [(3, 32), (3, 32), (3, 64)]
