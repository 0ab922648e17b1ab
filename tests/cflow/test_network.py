"""One level is an exact density and a scale on it; the network is a level at every position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.whitening import InputLayer


def make_level(channels=4, seed=0):
    """A level with nothing at its start, in double precision."""
    torch.manual_seed(seed)
    layer = InputLayer(torch.randn(channels), torch.randn(channels, channels))
    level = Level(layer, ConditionalFlow(channels, blocks=2, position_channels=8, seed=seed))
    with torch.no_grad():
        for value in level.flow.parameters():
            value += 0.3 * torch.randn_like(value)
    level.reference.fill_(-1.5)
    level.spread.fill_(0.25)
    return level.double()


@pytest.fixture(scope="module")
def network():
    encoder = build_encoder("test_efficientnet", (8, 16), weights="random")
    levels = [make_level(c, seed).float() for seed, c in enumerate(encoder.spec.channels)]
    for level in levels:
        level.input_layer.matrix.copy_(torch.eye(level.flow.channels))
    return CflowNetwork(encoder, levels).eval()


def pixels(count=2, shape=(64, 96)):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8))


# A level


def test_the_density_of_a_level_is_that_of_feature_vectors():
    """The change of variables from end to end, input layer included."""
    level = make_level()
    z, row, column = torch.randn(4).double(), torch.tensor(2), torch.tensor(3)

    def to_normal(z):
        return level.flow(level.input_layer(z), row, column)[0]

    jacobian = torch.autograd.functional.jacobian(to_normal, z)
    u = to_normal(z)
    expected = -0.5 * u.square().sum() - 2 * math.log(2 * math.pi)
    expected = expected + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(level.log_prob(z, row, column), expected, rtol=0, atol=1e-6)


def test_the_likelihood_per_dimension_leaves_a_constant_out():
    level = make_level()
    z = torch.randn(50, 4).double()
    rows, columns = torch.randint(0, 9, (2, 50))
    gap = level.log_prob(z, rows, columns) / 4 - level(z, rows, columns)
    torch.testing.assert_close(gap, (level.input_layer.log_det / 4).expand(50))


def test_normality_is_one_from_the_reference_upwards_and_falls_below_it():
    level = make_level()
    likelihood = torch.linspace(-30, 5, 200).double()
    anywhere = torch.tensor(0)
    normality = level.normality(likelihood, anywhere, anywhere)
    assert ((normality == 1) == (likelihood >= level.reference)).all()
    assert (normality.diff() >= 0).all()
    assert normality.min() >= 0
    one_below = level.normality(level.reference - level.spread, anywhere, anywhere)
    assert one_below.item() == pytest.approx(math.exp(-1))


def test_samples_have_the_distribution_that_the_level_says():
    """Where `log p` is right, `E[exp(log q - log p)]` over samples of p is 1 for any density q."""
    level = make_level()
    rows, columns = torch.full((20000,), 2), torch.full((20000,), 3)
    drawn = level.sample(rows, columns, torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_p = level.log_prob(drawn, rows, columns)
    q = torch.distributions.MultivariateNormal(drawn.mean(0), 0.3 * drawn.T.cov())
    ratio = (q.log_prob(drawn) - log_p).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))


def test_samples_are_named_by_their_generator():
    level = make_level()
    rows, columns = torch.randint(0, 9, (2, 3, 5))
    first, again, other = (
        level.sample(rows, columns, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == (3, 5, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# The network


def test_maps_have_a_value_for_every_position(network):
    for maps in (network(pixels()), network.log_likelihoods(pixels())):
        assert [tuple(m.shape) for m in maps] == [(2, 8, 12), (2, 4, 6)]
    for normality in network(pixels()):
        assert normality.min() >= 0
        assert normality.max() <= 1


def test_a_position_scores_as_its_vector_alone(network):
    pyramid = network.encoder(pixels())
    likelihoods = network.log_likelihoods(pixels())
    for level, features, whole in zip(network.levels, pyramid, likelihoods, strict=True):
        for b, r, c in [(0, 0, 0), (1, 2, 3), (0, 3, 5)]:
            alone = level(features[b, r, c], torch.tensor(r), torch.tensor(c))
            torch.testing.assert_close(whole[b, r, c], alone, rtol=1e-4, atol=1e-4)


def test_an_image_scores_the_same_in_any_company(network):
    together = network(pixels(5))
    for number in range(5):
        alone = network(pixels(5)[number : number + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[number], one[0], rtol=1e-4, atol=1e-5)


def test_everything_that_changes_a_score_is_in_the_state(network):
    """A network of other numbers scores alike once it has the state."""
    spec = network.encoder.spec
    other = build_encoder(spec.backbone, spec.strides, weights="random", seed=9)
    levels = [make_level(c, 9).float() for c in spec.channels]
    again = CflowNetwork(other, levels).eval()
    before = again(pixels())
    again.load_state_dict(network.state_dict())
    for expected, same, different in zip(network(pixels()), again(pixels()), before, strict=True):
        assert torch.equal(expected, same)
        assert not torch.equal(expected, different)
