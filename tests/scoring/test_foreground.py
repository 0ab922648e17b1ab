"""The part is found on a plain background, whole; where it cannot be, nothing is cut off."""

from __future__ import annotations

import numpy as np

from cflow_ad.scoring.foreground import find_foreground
from tests.data.parts import GROUND, draw_part


def test_the_part_is_in_and_the_background_out():
    found = find_foreground(draw_part(np.random.default_rng(0)))
    assert found is not None
    assert found[50:181, 70:111].all()
    assert found[80:181, 70:191].all()
    assert not found[:30].any()
    assert found.mean() < 0.5


def test_what_is_missing_from_the_part_and_what_sticks_out_of_it_is_in():
    image = draw_part(np.random.default_rng(1))
    image[120:150, 165:192] = GROUND  # a notch
    image[100:106, 190:198] = (90, 80, 70)  # a burr
    found = find_foreground(image)
    assert found[120:150, 165:192].all()
    assert found[100:106, 190:198].all()


def test_a_speck_on_the_background_does_not_stretch_it():
    image = draw_part(np.random.default_rng(2))
    image[8, 8] = 0
    assert not find_foreground(image)[8, 8]


def test_without_a_plain_background_there_is_none():
    rng = np.random.default_rng(3)
    assert find_foreground(rng.integers(0, 256, (90, 120, 3), np.uint8)) is None
    assert find_foreground(np.full((90, 120, 3), 77, np.uint8)) is None
    assert find_foreground(np.zeros((1, 1, 3), np.uint8)) is None
