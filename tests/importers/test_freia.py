"""A decoder of FrEIA, of any version, is the flow it becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad.cflow.position import encode
from cflow_ad.errors import ModelFileError
from cflow_ad.importers.freia import convert_decoder, is_soft
from tests.cflow.freia import decoder
from tests.importers import peers


@pytest.fixture(scope="module", params=[(8, 128, True), (5, 8, False), (7, 0, True)])
def coder(request):
    channels, condition, soft = request.param
    made = decoder(channels, condition=condition, soft=soft)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "w_perm" not in name:
                value += 0.3 * torch.randn_like(value)
    made.condition, made.channels = condition, channels
    return made


def assert_same(flow, coder):
    z = 2 * torch.randn(12, coder.channels)
    rows, columns = torch.arange(12) // 4, torch.arange(12) % 4
    expected = peers.log_likelihood(coder, z, peers.positions(3, 4, coder.condition))
    ours = flow.log_prob(z, encode(rows, columns, coder.condition)) / coder.channels
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-4, atol=1e-4)


def renamed(state):
    """By the names of FrEIA before 0.2."""
    old = {"global_scale": "act_norm", "global_offset": "act_offset", "w_perm_inv": "w_inv",
           "w_perm": "w", "subnet": "s"}  # fmt: skip
    for ours, theirs in old.items():
        state = {key.replace(f".{ours}", f".{theirs}"): value for key, value in state.items()}
    return state


@torch.no_grad()
def test_a_decoder_is_the_same_flow(coder):
    flow = convert_decoder(coder.state_dict(), clamp=1.9, where="x")
    assert flow.condition_channels == coder.condition
    assert is_soft(flow) == (coder.channels != 5)
    assert_same(flow, coder)


@torch.no_grad()
def test_older_names_and_shapes_are_the_same_flow(coder):
    state = renamed(coder.state_dict())
    assert "module_list.1.s.0.weight" in state
    assert_same(convert_decoder(state, clamp=1.9, where="x"), coder)
    images = {k: v if ".s." in k else v[..., None, None] for k, v in state.items()}
    assert_same(convert_decoder(images, clamp=1.9, where="x"), coder)


@torch.no_grad()
def test_a_reordering_kept_as_an_index_is_the_same_flow():
    coder = decoder(6, condition=8, soft=False)
    coder.condition, coder.channels = 8, 6
    state = {k: v.argmax(1) if "w_perm" in k else v for k, v in coder.state_dict().items()}
    assert_same(convert_decoder(state, clamp=1.9, where="x"), coder)


@torch.no_grad()
def test_the_later_clamp_divides_before_the_tanh(coder):
    def later(self, x, a, rev=False):
        a = 0.1 * a
        n = x.shape[1]
        log_scale = 1.9 * torch.tanh(a[:, :n] / 1.9)
        return x * log_scale.exp() + a[:, n:], log_scale.sum(1)

    for block in coder:
        block._affine = later.__get__(block)
    try:
        flow = convert_decoder(coder.state_dict(), clamp=1.9, later_clamp=True, where="x")
        assert_same(flow, coder)
        with pytest.raises(AssertionError):
            assert_same(convert_decoder(coder.state_dict(), clamp=1.9, where="x"), coder)
    finally:
        for block in coder:
            del block._affine


def test_the_decoder_is_left_as_it_is(coder):
    before = {key: value.clone() for key, value in coder.state_dict().items()}
    convert_decoder(coder.state_dict(), clamp=1.9, later_clamp=True, where="x")
    assert all(torch.equal(value, before[key]) for key, value in coder.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("module_list.0.vk_householder", torch.zeros(2, 8), "vk_householder is not a tensor"),
        ("module_list.0.subnet.4.weight", torch.zeros(2), "is not a tensor of a CFLOW-AD decoder"),
        ("module_list.3.w_perm", torch.zeros(2), "blocks are missing"),
        ("module_list.1.w_perm", torch.zeros(8, 8), "w_perm is not a permutation"),
        ("module_list.1.w_perm", torch.zeros(3, 3), "w_perm is not a permutation"),
        ("module_list.1.global_scale", torch.full((1, 8), np.nan), "is not finite"),
        ("module_list.1.global_offset", torch.zeros(1, 9), "has the shape"),
        ("module_list.1.subnet.0.weight", torch.zeros(5, 6), "it must have a multiple of 4"),
        ("module_list.1.subnet.0.weight", torch.zeros(5, 132), "has the shape"),
        ("module_list.1.subnet.2.bias", torch.zeros(()), "has the shape"),
    ],
)
def test_what_is_no_such_decoder_is_named(key, value, said):
    state = {**decoder(8).state_dict(), key: value}
    with pytest.raises(ModelFileError, match=said) as caught:
        convert_decoder(state, clamp=1.9, where="file.pt: decoder 1")
    assert str(caught.value).startswith("file.pt: decoder 1")


def test_blocks_of_different_kinds_are_refused():
    state = decoder(8).state_dict()
    other = decoder(8, soft=False).state_dict()
    mixed = {key: other[key] if "list.1" in key else value for key, value in state.items()}
    with pytest.raises(ModelFileError, match="differ in kind"):
        convert_decoder(mixed, clamp=1.9, where="x")
