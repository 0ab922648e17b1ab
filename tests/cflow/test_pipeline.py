"""The way of batches to an accelerator and back, on a CPU in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad import DeviceError, DeviceWarning, ImageError
from cflow_ad.cflow import pipeline
from cflow_ad.cflow.pipeline import run_on_accelerator
from cflow_ad.scoring.canvas import Sizing
from cflow_ad.scoring.view import View

VIEW = View(sizing=Sizing.parse("native"))
CPU = torch.device("cpu")


def image(value, shape=(32, 32)):
    return np.full((*shape, 3), value, np.uint8)


class Network:
    """The mean of each image; notes the batches, and has memory for `room` images."""

    def __init__(self, room=1000):
        self.batches = []
        self.room = room

    def __call__(self, pixels):
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.batches.append(tuple(pixels.shape[:2]))
        return [pixels.float().mean((1, 2, 3)), pixels.float().amax((2, 3))]


def finish(canvas, levels):
    assert levels[0] == levels[1].max()
    return [float(levels[0]), *map(float, levels[2:])]


def run(sources, network=None, batch_size=4, **options):
    network = network or Network()
    found = run_on_accelerator(
        network, finish, sources, VIEW, device=CPU, batch_size=batch_size, **options
    )
    return [result for _, result in found], network.batches


@pytest.mark.parametrize("given", [list, iter])
def test_results_are_in_order_and_batches_have_one_size(given):
    sources = [image(n, (32 if n < 10 else 64, 32)) for n in range(16)]
    results, batches = run(given(sources))
    assert results == [[n] for n in range(16)]
    assert batches == [(4, 32)] * 3 + [(4, 64)] * 2


def test_an_image_alone_goes_alone():
    assert run([image(7)]) == ([[7]], [(1, 32)])
    assert run([image(7), image(8, (64, 32))])[1] == [(1, 32), (1, 64)]


def test_what_is_computed_beside_the_levels_reaches_the_right_image():
    seen = []

    def extra(levels, canvases):
        seen.append(len(canvases))
        return [levels[0][number] * 2 for number in range(len(canvases))]

    results, _ = run([image(n) for n in range(6)], extra=extra)
    assert results == [[n, 2 * n] for n in range(6)]
    assert seen == [4, 2]


def test_buffers_are_used_again_but_never_while_in_use(monkeypatch):
    queues = pipeline._Queues(*pipeline._queues_of(CPU)[:3], pipeline._Buffers(CPU))
    monkeypatch.setattr(pipeline, "_queues_of", lambda device: queues)
    addresses = []

    class Watched(Network):
        def __call__(self, pixels):
            addresses.append(pixels.data_ptr())
            return super().__call__(pixels)

    assert run([image(n) for n in range(32)], Watched())[0] == [[n] for n in range(32)]
    assert len(addresses) == 8
    assert len(set(addresses)) == 2
    assert addresses[0] != addresses[1]


def test_images_of_two_kinds_of_numbers_are_not_joined():
    floats = image(3).astype(np.float32) + 0.5
    results, batches = run([image(1), image(2), floats, floats])
    assert results == [[1], [2], [3.5], [3.5]]
    assert batches == [(4, 32)] * 2


def test_an_image_that_cannot_be_used_is_left_out_or_raised(tmp_path):
    missing = tmp_path / "missing.png"
    sources = [image(1), missing, image(2)]
    failed = []
    results, _ = run(sources, on_error=lambda source, error: failed.append(source))
    assert results == [[1], [2]]
    assert failed == [missing]
    with pytest.raises(ImageError, match=r"missing\.png"):
        run(sources)


def test_an_error_in_finishing_is_that_of_its_image():
    def refuse(canvas, levels):
        if float(levels[0]) == 3:
            raise ImageError("the image: 3")
        return float(levels[0])

    def go(**options):
        sources = [image(n) for n in range(6)]
        found = run_on_accelerator(
            Network(), refuse, sources, VIEW, device=CPU, batch_size=4, **options
        )
        return [result for _, result in found]

    failed = []
    assert go(on_error=lambda source, error: failed.append(source)) == [0, 1, 2, 4, 5]
    assert len(failed) == 1
    with pytest.raises(ImageError, match="3"):
        go()


def test_where_memory_runs_out_batches_are_halved_and_that_is_said_once():
    network = Network(room=3)
    with pytest.warns(
        DeviceWarning, match=r"too small for 16 images at once; going on with 8"
    ) as of:
        results, batches = run([image(n) for n in range(40)], network, batch_size=16)
    assert results == [[n] for n in range(40)]
    assert set(batches) == {(2, 32)}
    assert len(of) == 1


def test_memory_too_small_for_one_image_is_one_error():
    with (
        pytest.warns(DeviceWarning),
        pytest.raises(DeviceError, match=r"memory is too small.*smaller size, or --device cpu"),
    ):
        run([image(n) for n in range(5)], Network(room=0))
    with pytest.raises(DeviceError, match="memory is too small"):
        run([image(1)], Network(room=0))


def test_a_consumer_may_leave_and_its_gradients_are_its_own():
    found = run_on_accelerator(
        Network(), finish, [image(n) for n in range(20)], VIEW, device=CPU, batch_size=2
    )
    next(found)
    assert torch.is_grad_enabled()
    found.close()
