"""A checkpoint holds all of a training run: parameters, the optimiser's moments, the progress."""

from __future__ import annotations

import pytest
import torch

from cflow_ad.fitting.checkpoint import Checkpoint, State


def run(seed=0):
    """Parameters and their optimiser, as in training."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in (("a.weight", (4, 3)), ("a.bias", (4,)), ("unused", (2,)))
    }
    return parameters, torch.optim.Adam(parameters.values(), lr=0.1, fused=True)


def advance(parameters, optimiser, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        (parameters["a.weight"].square().sum() + parameters["a.bias"].exp().sum()).backward()
        optimiser.step()


def test_the_optimiser_continues_where_it_was(tmp_path):
    """Its moments and its step count are those saved, on the parameters' device, which a fused
    step needs; the steps after it are bit for bit those of a run that was not interrupted.
    """
    parameters, optimiser = run()
    advance(parameters, optimiser, 3)
    state = State(done=3, loss=1.5)
    Checkpoint(tmp_path / "c.safetensors", "k", parameters, optimiser).save(state, now=True)

    others, their_optimiser = run(seed=1)
    restored = Checkpoint(tmp_path / "c.safetensors", "k", others, their_optimiser).restore()
    assert restored == state
    for name in ("a.weight", "a.bias"):
        ours = optimiser.state[parameters[name]]
        theirs = their_optimiser.state[others[name]]
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), key
            assert value.dtype == theirs[key].dtype
            assert theirs[key].device == others[name].device
    assert others["unused"] not in their_optimiser.state  # it had no step yet
    assert their_optimiser.param_groups[0]["fused"]

    advance(parameters, optimiser, 4)
    advance(others, their_optimiser, 4)
    for name, value in parameters.items():
        assert torch.equal(value, others[name]), name


@pytest.mark.parametrize("damage", ["missing", "other key", "cut short", "garbage"])
def test_a_file_of_another_run_or_a_damaged_one_is_ignored(tmp_path, damage):
    path = tmp_path / "c.safetensors"
    parameters, optimiser = run()
    Checkpoint(path, "one", parameters, optimiser).save(State(done=3), now=True)
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "garbage":
        path.write_bytes(b"x" * 64)
    before = parameters["a.weight"].clone()
    key = "two" if damage == "other key" else "one"
    assert Checkpoint(path, key, parameters, optimiser).restore().done == 0
    assert torch.equal(parameters["a.weight"], before)
