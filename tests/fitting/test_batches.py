"""Batches are drawn reproducibly, and a step on a device neither leaves it nor waits for it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cflow_ad.cflow.device import free_memory
from cflow_ad.fitting import batches as batches_module
from cflow_ad.fitting.batches import BLOCK, Batches
from cflow_ad.fitting.likelihood import _Steps, build_level, compute_loss
from cflow_ad.fitting.place_means import subtract_place_means
from cflow_ad.method import Method
from cflow_ad.settings import Settings
from tests.cflow.fake import make_fake
from tests.fitting.vectors import cache_of, random_maps

SETTINGS = Settings(method=Method(blocks=2), strides=(8,))


@pytest.fixture
def features():
    return subtract_place_means(cache_of(random_maps(20, pattern=3.0)), 4, 20)


@pytest.fixture
def level(features):
    return build_level(features, SETTINGS, 0)


def drawn(batches, block):
    batches.draw(block)
    return [of.clone() for of in (batches.x, batches.condition)]


def test_a_block_is_always_the_same_and_blocks_differ(level, features):
    batches = Batches(level, features, 16, (0, 0))
    first, second = drawn(batches, 0), drawn(batches, 1)
    assert first[0].shape == (BLOCK, 16, 3)
    assert not torch.equal(first[0], second[0])
    for one, again in zip(first, drawn(Batches(level, features, 16, (0, 0)), 0), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(first[1], drawn(Batches(level, features, 16, (1, 0)), 0)[1])


def test_batches_are_of_the_level_after_its_input_layer(level, features):
    batches = Batches(level, features, 64, (0, 0))
    z, rows, columns = features.take(np.arange(len(features)))
    known = torch.cat((level.input_layer(z), level.condition(rows, columns)), dim=1)
    found = torch.cat(drawn(batches, 0), dim=2).flatten(0, 1)
    exact = "donot_use_mm_for_euclid_dist"
    assert torch.cdist(found, known, compute_mode=exact).amin(1).max() < 1e-3
    assert len(torch.unique(found, dim=0)) > 0.5 * len(known)  # drawn from all of them


def test_vectors_that_are_kept_on_a_device_are_those_that_are_sent(level, features, monkeypatch):
    """As on a GPU, with the vectors of the level in its memory."""
    monkeypatch.setattr(batches_module, "_CHUNK", 100)
    sent = Batches(level, features, 16, (0, 0))
    kept = Batches(level, features, 16, (0, 0))
    kept._all = kept._send_all()
    assert kept._all is not None
    for one, other in zip(drawn(sent, 3), drawn(kept, 3), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("free", [0.0, 1e3])
def test_vectors_beyond_the_free_memory_are_not_kept(level, features, monkeypatch, free):
    monkeypatch.setattr(batches_module, "free_memory", lambda device: free)
    assert Batches(level, features, 16, (0, 0))._send_all() is None


def test_memory_that_torch_keeps_for_later_is_free(monkeypatch):
    """Such as that of the levels trained before."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_memory(torch.device("cuda")) == 80
    assert free_memory(torch.device("cpu")) == math.inf


def test_vectors_for_which_memory_runs_out_are_not_kept(level, features, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    batches = Batches(level, features, 16, (0, 0))
    monkeypatch.setattr(batches, "_take", fail)
    assert batches._send_all() is None


def fake_batches(batch_size, channels, device):
    batches = Batches.__new__(Batches)
    batches.x = torch.randn(BLOCK, batch_size, channels, device=device)
    batches.condition = torch.randn(BLOCK, batch_size, 128, device=device)
    return batches


@pytest.mark.parametrize("permutation", ["index", "soft"])
@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_the_forward_pass_stays_on_its_device(features, permutation, positions):
    """Tensors without values, on a GPU that need not be there: reading a value, or using tensors
    of two devices together, is an error.
    """
    changes = {"place_means": False, "place_scales": 0.0} if positions == "absolute" else {}
    method = Method(blocks=2, permutation=permutation, positions=positions, **changes)
    level = build_level(features, dataclasses.replace(SETTINGS, method=method), 0)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake as mode:
        make_fake(level, mode)
        batches = fake_batches(16, 3, "cuda")
        loss = compute_loss(level.of_whitened(batches.x[0], batches.condition[0]))
        assert loss.device.type == "cuda"
        with pytest.raises(Exception, match="_local_scalar_dense"):
            loss.item()


def test_a_step_reads_no_value_back(features):
    """So that it can be captured in a graph: tensors without values, backward pass and all."""
    level = build_level(features, SETTINGS, 0)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        make_fake(level.density, mode, "cpu")
        optimiser = torch.optim.Adam(level.density.parameters(), foreach=False)
        steps = _Steps(level, optimiser, fake_batches(16, 3, "cpu"))
        optimiser.param_groups[0]["lr"] = 1e-3  # torch's own loop reads a tensor on a CPU
        steps.begin(0, [1e-3] * BLOCK)
        for _ in range(3):
            steps.take()
        with pytest.raises(Exception, match="_local_scalar_dense"):
            steps.losses.tolist()
