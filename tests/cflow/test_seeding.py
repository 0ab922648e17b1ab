"""What torch draws at random follows the seed, in every thread, and leaves no trace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cflow_ad import Settings
from cflow_ad.cflow.level import build_flow
from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.cflow.seeding import torch_seed


def test_the_generator_is_as_before_also_after_an_error():
    def draw(x):
        with torch_seed(3):
            return torch.rand(4) + x

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    with pytest.raises(TypeError):
        draw("a number")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generators_of_accelerators_are_left_alone(monkeypatch):
    def refuse(seed):
        raise AssertionError("the generator of an accelerator was seeded")

    for device in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(device, "manual_seed_all", refuse, raising=False)
        monkeypatch.setattr(device, "manual_seed", refuse)
    build_pyramid("test_resnet", (8,), seed=3)
    build_flow(8, Settings(), 0, seeded=True)


def test_threads_draw_what_each_would_draw_alone():
    def draw(seed):
        with torch_seed(seed):
            return [float(torch.rand(())) for _ in range(200)]

    expected = [draw(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(8))) == expected
