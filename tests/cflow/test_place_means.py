"""Means by place and aspect ratio: one function, read in several ways."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from cflow_ad.cflow.place_means import STEPS, PlaceMeans, aspect_of, nearest, shares
from cflow_ad.cflow.position import FRAME, axis_places

ASPECTS = torch.tensor([-3.0, 0.0, 1.0])


def means(n=8, channels=3, aspects=ASPECTS):
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(len(aspects) + 1, n, n, channels, generator=generator)
    return PlaceMeans(tables, aspects)


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (6, 48), (1, 1)])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_vectors_and_maps_have_the_same_means(shape, n):
    given = means(n)
    rows, columns = (axis_places(side, "relative") for side in shape)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij"))
    aspects = torch.full((len(rows),), aspect_of(*shape))
    found = given.of_vectors(aspects, rows, columns).view(*shape, 3)
    torch.testing.assert_close(found, given(*shape))


def test_places_are_interpolated_between_the_centres_of_parts():
    given = means(8)
    rows, columns = (axis_places(side, "relative").numpy() for side in (20, 20))
    at = [places * 8 / FRAME - 0.5 for places in (rows, columns)]
    grid = np.meshgrid(*at, indexing="ij")
    of_square = given.tables[2].numpy()  # of aspect 0
    for channel in range(3):
        expected = map_coordinates(of_square[..., channel], grid, order=1, mode="nearest")
        np.testing.assert_allclose(given(20, 20)[..., channel], expected, atol=1e-5)


def test_some_rows_of_a_map_are_cut_from_the_whole():
    given = means()
    torch.testing.assert_close(given(12, 9, slice(3, 7)), given(12, 9)[3:7])


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [
        (0.0, [0, 0, 1, 0]),
        (0.25, [0, 0, 0.75, 0.25]),
        (1.5, [0.5, 0, 0, 0.5]),
        (-2.75, [0.25, 0.75, 0, 0]),
        (9.0, [1, 0, 0, 0]),
    ],
)
def test_an_aspect_ratio_takes_the_nearest_and_else_what_all_images_have(aspect, expected):
    found = shares(torch.tensor(aspect), ASPECTS)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    which, near = nearest(torch.tensor([aspect]), ASPECTS)
    again = torch.zeros(4).index_add_(0, which[0], near[0])
    torch.testing.assert_close(again, found)


def test_a_doubling_of_height_is_so_many_steps():
    assert aspect_of(2, 1) == STEPS
    assert math.isclose(aspect_of(3, 4), -aspect_of(4, 3))


def test_a_state_of_any_number_of_aspect_ratios_is_taken():
    given = means()
    other = PlaceMeans(torch.empty(0, 8, 8, 3), torch.empty(0))
    other.load_state_dict(given.state_dict(), assign=True)
    assert torch.equal(other(6, 6), given(6, 6))


@pytest.mark.parametrize(
    "damage",
    [
        {"aspects": ASPECTS[:1]},
        {"tables": torch.zeros(4, 8, 8, 2)},
        {"tables": torch.zeros(4, 4, 4, 3)},
        {"aspects": torch.zeros(3, 2)},
    ],
)
def test_a_state_that_does_not_fit_together_is_refused(damage):
    other = PlaceMeans(torch.empty(0, 8, 8, 3), torch.empty(0))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(means().state_dict() | damage, assign=True)
