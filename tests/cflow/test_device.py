"""What a device offers, where none need be there."""

from __future__ import annotations

import itertools
import types

import pytest
import torch

from cflow_ad.cflow import device as device_module
from cflow_ad.cflow.device import Lane

CUDA = torch.device("cuda")


@pytest.fixture
def streams(monkeypatch):
    """Streams are numbers, which come in turn as torch's do."""
    numbers = itertools.cycle(range(1, 33))
    module = types.SimpleNamespace(Stream=lambda device: next(numbers))
    monkeypatch.setattr(device_module, "_module_of", lambda device: module)


def test_lanes_that_are_in_use_have_streams_of_their_own(streams):
    kept = [Lane(CUDA) for _ in range(3)]
    for _ in range(100):
        assert Lane(CUDA)._stream not in [lane._stream for lane in kept]
    more = [Lane(CUDA) for _ in range(29)]
    assert {lane._stream for lane in (*kept, *more)} == set(range(1, 33))
    assert Lane(CUDA)._stream in range(1, 33)  # beyond that, one is shared
