"""A level is an exact density, and a scale on it."""

from __future__ import annotations

import math

import pytest
import torch

from cflow_ad import Settings
from cflow_ad.cflow.level import build_flow, count_parts, empty_level
from cflow_ad.method import Method
from tests.cflow.networks import make_level


@pytest.mark.parametrize("whiten", [True, False])
def test_the_density_of_a_level_is_that_of_feature_vectors(whiten):
    """The change of variables from end to end, input layer included."""
    level = make_level(whiten=whiten).double()
    z, row, column = torch.randn(4).double(), torch.tensor(2), torch.tensor(3)

    def to_normal(z):
        return level.density(level.input_layer(z), level.condition(row, column))[0]

    jacobian = torch.autograd.functional.jacobian(to_normal, z)
    u = to_normal(z)
    expected = -0.5 * u.square().sum() - 2 * math.log(2 * math.pi)
    expected = expected + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(level.log_prob(z, row, column), expected, rtol=0, atol=1e-6)


def test_the_log_likelihood_per_dimension_leaves_out_a_constant():
    level = make_level().double()
    z = torch.randn(50, 4).double()
    rows, columns = torch.randint(0, 9, (2, 50))
    gap = level.log_prob(z, rows, columns) / 4 - level(z, rows, columns)
    torch.testing.assert_close(gap, (level.input_layer.log_det / 4).expand(50))


def test_the_energy_counts_scales_below_the_location_and_is_0_above():
    level = make_level()
    likelihood = torch.linspace(-30, 5, 200)
    anywhere = torch.tensor(0)
    energy = level.energy(likelihood, anywhere, anywhere)
    assert ((energy == 0) == (likelihood >= level.location)).all()
    torch.testing.assert_close(
        energy, torch.relu((level.location - likelihood) / level.scale), rtol=1e-6, atol=0
    )
    three = level.energy(level.location - 3 * level.scale, anywhere, anywhere)
    assert three.item() == pytest.approx(3, rel=1e-5)


def test_each_part_of_an_image_has_a_location_and_a_scale():
    level = make_level(stride=64, parts=4)
    rows, columns = torch.tensor([0, 63, 64, 255]), torch.tensor([255, 64, 63, 0])
    energy = level.energy(torch.full((4,), -5.0), rows, columns)
    places = ((0, 3), (0, 1), (1, 0), (3, 0))
    expected = [(level.location[place] + 5) / level.scale[place] for place in places]
    torch.testing.assert_close(energy, torch.stack(expected))
    assert (count_parts(8), count_parts(64), count_parts(512)) == (32, 4, 1)


def test_means_of_places_are_subtracted_and_else_nothing():
    features = torch.randn(2, 3, 5, 4)
    level = make_level(stride=64)
    expected = features - level.means(3, 5)
    torch.testing.assert_close(level.subtract_means(features), expected)
    assert make_level().subtract_means(features) is features


def test_a_levels_number_and_the_seed_name_its_random_choices():
    def flow(seed, number):
        return build_flow(8, Settings(seed=seed), number, seeded=True).state_dict()

    def equal(one, other):
        return [torch.equal(value, other[name]) for name, value in one.items()]

    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert all(equal(flow(1, 0), flow(1, 0)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not all(equal(flow(1, 0), flow(1, 1)))
    assert not all(equal(flow(1, 0), flow(2, 0)))


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"whiten": False},
        {"place_means": False, "place_scales": 0.0, "positions": "absolute"},
        {"permutation": "soft", "wide_subnets": True, "position_channels": 0, "blocks": 1},
    ],
)
def test_an_empty_level_has_the_shapes_of_a_trained_one(method):
    settings = Settings(method=Method(**method))
    level = empty_level(6, settings, 0)
    flow = build_flow(6, settings, 0, seeded=True).state_dict()
    shapes = {name: value.shape for name, value in level.state_dict().items()}
    assert {
        f"density.{name}": value.shape for name, value in flow.items()
    }.items() <= shapes.items()
    assert ("input_layer.matrix" in shapes) == settings.method.whiten
    assert ("means.tables" in shapes) == settings.method.place_means
    parts = (32, 32) if settings.method.place_scales else ()
    assert shapes["location"] == shapes["scale"] == parts
    assert all(value.is_meta for value in level.state_dict().values())
