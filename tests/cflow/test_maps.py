"""Maps made on the device of the network are those that numpy makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cflow_ad.cflow import maps as maps_module
from cflow_ad.cflow.maps import MapBuilder
from cflow_ad.scoring import anomaly_map as anomaly_map_module
from cflow_ad.scoring.anomaly_map import compute_anomaly_map
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import cell_of

SHAPE = (64, 96)
FRAMES = [((64, 96), (64, 96)), ((64, 96), (150, 220)), ((50, 96), (25, 48)), ((33, 40), (33, 40))]


def canvases_of(frames):
    pixels = np.broadcast_to(np.uint8(0), (*SHAPE, 3))
    return [Canvas(pixels, valid, original) for valid, original in frames]


def random_energies(count, seed=0):
    rng = np.random.default_rng(seed)
    grids = [(count, SHAPE[0] // stride, SHAPE[1] // stride) for stride in (8, 16, 32)]
    return [torch.from_numpy(rng.exponential(3.0, grid).astype(np.float32)) for grid in grids]


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
@pytest.mark.parametrize("band", [1024, 37])
@pytest.mark.parametrize("at_once", [2**25, 1])
def test_a_batch_has_the_maps_that_its_images_have(smoothing, band, at_once, monkeypatch):
    monkeypatch.setattr(anomaly_map_module, "_BAND", band)
    monkeypatch.setattr(maps_module, "_AT_ONCE", at_once)
    anomaly_map_module.resampling.cache_clear()
    frames = [FRAMES[i] for i in (0, 1, 0, 2, 3, 1)]
    energies = random_energies(len(frames) + 2)  # with places that are empty
    build = MapBuilder(smoothing, torch.device("cpu"))
    for _ in range(2):
        found = build(energies, canvases_of(frames))
        assert len(found) == len(frames)
        for number, (valid, original) in enumerate(frames):
            expected = compute_anomaly_map(
                [grid[number].numpy() for grid in energies],
                [cell_of(SHAPE, grid.shape[1:]) for grid in energies],
                valid=valid,
                original=original,
                smoothing=smoothing,
            )
            np.testing.assert_allclose(found[number].numpy(), expected, rtol=1e-5, atol=2e-6)
    anomaly_map_module.resampling.cache_clear()


def test_few_sizes_are_kept(monkeypatch):
    monkeypatch.setattr(maps_module, "_KEPT", 2)
    build = MapBuilder(2.0, torch.device("cpu"))
    for frame in FRAMES:
        build(random_energies(1), canvases_of([frame]))
    assert len(build._kept) == 2


def test_the_work_stays_on_its_device():
    with FakeTensorMode(allow_non_fake_inputs=True):
        energies = [torch.empty(grid.shape, device="cuda") for grid in random_energies(3)]
        found = MapBuilder(2.0, torch.device("cuda"))(energies, canvases_of(FRAMES[:3]))
    assert [one.device.type for one in found] == ["cuda"] * 3
    assert [one.shape for one in found] == [original for _, original in FRAMES[:3]]
