"""A part that was moved is brought back, and what cannot be brought is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from cflow_ad import ImageError
from cflow_ad.scoring.alignment import Reference
from cflow_ad.scoring.motion import Motion
from tests.data.parts import draw_part


@pytest.mark.parametrize(("side", "turns"), [(256, False), (180, True)])
def test_a_moved_part_is_brought_back(side, turns):
    rng = np.random.default_rng(0)
    reference = Reference.choose([draw_part(rng, side=side)], turns=turns)
    for number in range(3):
        right, down = rng.uniform(-0.1 * side, 0.1 * side, 2)
        degrees = rng.uniform(-180, 180) if turns else 0.0
        image = draw_part(rng, Motion(right, down, degrees), side, hole=number != 1)
        found = reference.motion_of(image)
        assert found is not None
        assert abs(found.right - right) < 0.5
        assert abs(found.down - down) < 0.5
        assert abs((found.degrees - degrees + 180) % 360 - 180) < 0.3
        part = np.abs(found.bring(image).astype(float) - draw_part(rng, side=side))
        assert part[found.seen((side, side))].mean() < 6


def test_another_exposure_is_no_motion():
    rng = np.random.default_rng(1)
    reference = Reference.choose([draw_part(rng)], turns=False)
    darker = (draw_part(rng, Motion(9.0, -6.0, 0.0)) * 0.7).astype(np.uint8)
    found = reference.motion_of(darker)
    assert (found.right, found.down) == pytest.approx((9, -6), abs=0.5)


def test_what_does_not_look_like_the_reference_is_left_alone():
    rng = np.random.default_rng(2)
    reference = Reference.choose([draw_part(rng)], turns=True)
    assert reference.motion_of(rng.integers(0, 256, (256, 256, 3), np.uint8)) is None
    assert reference.motion_of(np.full((256, 256, 3), 90, np.uint8)) is None


def test_a_map_comes_back_in_its_place():
    motion = Motion(12.0, -7.0, 20.0)
    values = np.zeros((120, 160), np.float32)
    values[70:75, 90:95] = 1
    back = motion.give_back(values)
    y, x = np.nonzero(back > 0.5)
    expected = motion.of_points(np.array([[92.5, 72.5]]), (120, 160))[0]
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx(expected, abs=0.5)


def test_the_most_central_image_is_the_reference():
    rng = np.random.default_rng(3)
    moved = [draw_part(rng, Motion(right, 0.0, 0.0)) for right in (-20.0, 0.0, 20.0)]
    reference = Reference.choose(moved, turns=False)
    assert [reference.is_made_from(image) for image in moved] == [n == 1 for n in range(len(moved))]


def test_other_aspect_ratios_are_refused():
    rng = np.random.default_rng(4)
    part = draw_part(rng)
    reference = Reference.choose([part], turns=False)
    with pytest.raises(ImageError, match="aspect ratio"):
        reference.motion_of(part[:200])
    with pytest.raises(ImageError, match="aspect ratio"):
        Reference.choose([part, part[:200]], turns=False)
