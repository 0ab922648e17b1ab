"""Laws of the conditional flow: it can be undone, its density is exact, and it is the paper's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cflow_ad.cflow.flow import (
    ConditionalFlow,
    CouplingBlock,
    random_index,
    random_rotation,
    standard_normal_log_prob,
)
from cflow_ad.cflow.position import encode
from tests.cflow.freia import freia_of
from tests.cflow.oracle import encode_positions, rotation_of, run_flow

CHANNELS = [2, 5, 8]
POSITION_CHANNELS = [0, 128]
PERMUTATIONS = ["soft", "index"]

every_kind = pytest.mark.parametrize(
    ("channels", "position_channels", "permutation"),
    list(itertools.product(CHANNELS, POSITION_CHANNELS, PERMUTATIONS)),
)


def make_flow(channels, position_channels, permutation="soft", *, blocks=3, stirred=1.0):
    """A flow in double precision; stirred, none of its parameters is at its start."""
    torch.manual_seed(0)
    flow = ConditionalFlow(
        channels,
        blocks=blocks,
        condition_channels=position_channels,
        permutation=permutation,
        seed=1,
    )
    with torch.no_grad():
        for name, value in flow.named_parameters():
            # Large enough in the subnets' second layers that every clamp is felt.
            noise = 4.0 * value.shape[-1] ** -0.5 if "second" in name else 0.3
            value += stirred * noise * torch.randn_like(value)
    return flow.double()


def rotate_exactly(flow):
    """Rotations are kept in single precision, so that W and its transpose undo each other to 1e-7
    only; this makes them exact, to look at everything else in double precision.
    """
    for block in flow.blocks:
        if block.permutation.is_floating_point():
            q, r = torch.linalg.qr(block.permutation)
            block.permutation.copy_(q * r.diagonal().sign())
    return flow


def make_vectors(shape, channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(*shape, channels, generator=generator, dtype=dtype)
    rows = torch.randint(0, 30, shape, generator=generator)
    columns = torch.randint(0, 40, shape, generator=generator)
    return x, rows, columns


def code(flow, rows, columns):
    """The condition, in the flow's precision."""
    return encode(rows, columns, flow.condition_channels).to(flow.blocks[0].offset)


# The way there and back


@every_kind
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3, 4)])
def test_inverse_undoes_forward(channels, position_channels, permutation, shape):
    flow = rotate_exactly(make_flow(channels, position_channels, permutation))
    x, rows, columns = make_vectors(shape, channels)
    condition = code(flow, rows, columns)
    u, log_det = flow(x, condition)
    assert u.shape == x.shape
    assert log_det.shape == shape
    assert not torch.allclose(u, x, atol=1e-3)
    torch.testing.assert_close(flow.inverse(u, condition), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(flow.inverse(x, condition), condition)[0], x)


@every_kind
def test_inverse_undoes_forward_in_single_precision(channels, position_channels, permutation):
    # Gently: flows that stretch much lose as many digits on the way back, as they must.
    flow = make_flow(channels, position_channels, permutation, blocks=8, stirred=0.3).float()
    x, rows, columns = make_vectors((50,), channels, torch.float32)
    condition = code(flow, rows, columns)
    back = flow.inverse(flow(x, condition)[0], condition)
    assert (back - x).abs().max() < 1e-5 * x.abs().max()


# The density


@every_kind
def test_log_det_is_that_of_the_jacobian(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation)
    x, rows, columns = make_vectors((4,), channels)
    condition = code(flow, rows, columns)
    log_det = flow(x, condition)[1]
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda z, i=i: flow(z, condition[i])[0], x[i])
        # Rotations in single precision have a determinant of 1 to 1e-7.
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_det[i], expected, rtol=0, atol=1e-6)
    exact = rotate_exactly(flow)
    jacobian = torch.autograd.functional.jacobian(lambda z: exact(z, condition[0])[0], x[0])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(exact(x, condition)[1][0], expected, rtol=0, atol=1e-10)


@every_kind
def test_log_prob_is_the_change_of_variables(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation)
    x, rows, columns = make_vectors((6,), channels)
    u, log_det = flow(x, code(flow, rows, columns))
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(channels).double(), torch.eye(channels).double()
    )
    torch.testing.assert_close(
        flow.log_prob(x, code(flow, rows, columns)), normal.log_prob(u) + log_det
    )
    torch.testing.assert_close(standard_normal_log_prob(u), normal.log_prob(u))


@pytest.mark.parametrize("permutation", PERMUTATIONS)
@pytest.mark.parametrize("position_channels", [0, 8])
def test_the_density_integrates_to_one(position_channels, permutation):
    flow = make_flow(2, position_channels, permutation)
    # The density lies where the flow sends normal variables: a grid around that.
    place = code(flow, torch.tensor(3), torch.tensor(5))
    drawn = flow.inverse(torch.randn(20000, 2).double(), place)
    low, high = drawn.amin(0), drawn.amax(0)
    low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
    axes = [torch.linspace(low[i], high[i], 500, dtype=torch.float64) for i in range(2)]
    grid = torch.cartesian_prod(*axes)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    with torch.no_grad():
        total = flow.log_prob(grid, place).exp().sum() * cell
    assert abs(total - 1) < 1e-2


# The parameters


@every_kind
def test_every_parameter_gets_a_gradient(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation)
    x, rows, columns = make_vectors((64,), channels)
    flow.log_prob(
        5 * x, code(flow, rows, columns)
    ).mean().backward()  # far out, so that no unit sleeps
    for name, value in flow.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name


@every_kind
def test_the_global_map_starts_at_the_identity(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation, stirred=0.0)
    for block in flow.blocks:
        with torch.no_grad():
            block.second.weight.zero_()
            block.second.bias.zero_()
    x, rows, columns = make_vectors((5,), channels)
    u, log_det = flow(x, code(flow, rows, columns))
    rotation = np.linalg.multi_dot([np.eye(channels), *map(rotation_of, flow.blocks[::-1])])
    np.testing.assert_allclose(u.detach(), x.numpy() @ rotation.T, atol=1e-6)
    np.testing.assert_allclose(log_det.detach(), 0, atol=1e-6)


def test_a_coupling_never_scales_beyond_its_clamp():
    torch.manual_seed(0)
    block = CouplingBlock(random_index(6, np.random.default_rng(0)), 0, clamp=0.7)
    with torch.no_grad():
        block.second.weight.mul_(1e4)
    x = torch.randn(1000, 6)
    log_det = block(x, x[:, :0])[1]
    assert log_det.abs().max().item() == pytest.approx(
        3 * 0.7, abs=1e-5
    )  # it is reached, not passed


@pytest.mark.parametrize("channels", [2, 3, 16, 41])
@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_is_in_the_special_orthogonal_group(channels, seed):
    rotation = random_rotation(channels, np.random.default_rng(seed)).double()
    torch.testing.assert_close(
        rotation @ rotation.T, torch.eye(channels).double(), rtol=0, atol=1e-6
    )
    assert torch.linalg.det(rotation).item() == pytest.approx(1, abs=1e-5)


def test_rotations_are_drawn_uniformly():
    """Under the Haar measure of SO(3) each entry has mean 0 and mean square 1/3."""
    rng = np.random.default_rng(0)
    drawn = torch.stack([random_rotation(3, rng) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3, 3), rtol=0, atol=0.04)
    torch.testing.assert_close(drawn.square().mean(0), torch.full((3, 3), 1 / 3), rtol=0, atol=0.03)


@pytest.mark.parametrize("permutation", PERMUTATIONS)
def test_a_seed_names_the_permutations(permutation):
    def drawn(seed):
        flow = ConditionalFlow(16, blocks=2, permutation=permutation, seed=seed)
        return torch.stack([block.permutation for block in flow.blocks])

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    first, second = drawn(3)
    assert not torch.equal(first, second)


# The condition


def test_the_position_matters_only_with_a_condition():
    x = torch.randn(1, 5).double().expand(2, 5)
    here_and_there = torch.tensor([0, 9])
    for position_channels in POSITION_CHANNELS:
        flow = make_flow(5, position_channels)
        first, second = flow.log_prob(x, code(flow, here_and_there, here_and_there))
        # Two places in a batch may differ in their last bits.
        assert torch.isclose(first, second, rtol=1e-12) == (position_channels == 0)


@every_kind
def test_a_map_at_once_is_each_vector_alone(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation)
    x = make_vectors((2, 3, 4), channels)[0]
    condition = code(flow, torch.arange(3)[:, None], torch.arange(4)[None, :])
    whole = flow.log_prob(x, condition)
    for b, r, c in itertools.product(range(2), range(3), range(4)):
        alone = flow.log_prob(x[b, r, c], condition[r, c])
        torch.testing.assert_close(whole[b, r, c], alone, rtol=0, atol=1e-10)


# It is the paper's


@every_kind
def test_it_is_the_reference_formula(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation)
    x, rows, columns = make_vectors((5,), channels)
    u, log_det = flow(x, code(flow, rows, columns))
    u32, log_det32 = flow.float()(x.float(), code(flow, rows, columns))
    flow.double()
    for i in range(5):
        expected, expected_log_det = run_flow(flow, x[i].numpy(), int(rows[i]), int(columns[i]))
        # 1e-7: the position encoding is made in double precision but kept in single.
        np.testing.assert_allclose(u[i].detach(), expected, rtol=0, atol=1e-6)
        assert log_det[i].item() == pytest.approx(expected_log_det, abs=1e-6)
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(u32[i].detach(), expected, rtol=0, atol=1e-5 * scale)
        assert log_det32[i].item() == pytest.approx(expected_log_det, rel=1e-5, abs=1e-5)


def code_of(rows, columns, channels):
    whole = encode_positions(int(rows.max()) + 1, int(columns.max()) + 1, channels)
    return whole[rows, columns].double()


@every_kind
@pytest.mark.parametrize("blocks", [1, 4])
def test_it_is_freias(channels, position_channels, permutation, blocks):
    flow = rotate_exactly(make_flow(channels, position_channels, permutation, blocks=blocks))
    peer = freia_of(flow)
    x, rows, columns = make_vectors((20,), channels)
    condition = [code_of(rows, columns, position_channels)]

    u, log_det = flow(x, code(flow, rows, columns))
    their_u, their_log_det = peer(x, condition)
    torch.testing.assert_close(u, their_u, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det, their_log_det, rtol=0, atol=1e-10)

    back, back_log_det = peer(x, condition, rev=True)
    ours_back = flow.inverse(x, code(flow, rows, columns))
    torch.testing.assert_close(ours_back, back, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        flow(ours_back, code(flow, rows, columns))[1], -back_log_det, rtol=1e-10, atol=1e-10
    )


@every_kind
def test_it_is_freias_in_single_precision(channels, position_channels, permutation):
    flow = make_flow(channels, position_channels, permutation, blocks=8)
    peer = freia_of(flow).float()
    x, rows, columns = make_vectors((20,), channels, torch.float32)
    their_u, their_log_det = peer(x, [code_of(rows, columns, position_channels).float()])
    u, log_det = flow.float()(x, code(flow, rows, columns))
    scale = max(1, their_u.abs().max().item())
    torch.testing.assert_close(u, their_u, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(log_det, their_log_det, rtol=1e-5, atol=1e-5)
