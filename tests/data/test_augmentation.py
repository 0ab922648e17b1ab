"""A variant is its image, moved and lit as was said, within what was said."""

from __future__ import annotations

import numpy as np
import pytest

from cflow_ad import Settings, SettingsError
from cflow_ad.data.augmentation import Variant, variants
from cflow_ad.data.images import as_image, image_shape


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_no_change_is_the_image(image):
    assert (as_image(Variant(image, 0, (0, 0), 1)) == image).all()


def test_a_shift_moves_and_reflects_at_the_border(image):
    moved = as_image(Variant(image, 0, (0.1, -0.05), 1))
    assert (moved[4:, :-3] == image[:-4, 3:]).all()
    assert (moved[:4, :-3] == image[:4, 3:][::-1]).all()


def test_half_a_turn_turns(image):
    assert (
        np.abs(as_image(Variant(image, 180, (0, 0), 1)).astype(int) - image[::-1, ::-1]).max() <= 1
    )


def test_a_quarter_turn_is_counter_clockwise():
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    turned = as_image(Variant(square, 90, (0, 0), 1)).astype(int)
    assert np.abs(turned - np.rot90(square)).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_brightness_multiplies_and_keeps_the_type_and_range(image, kind):
    pixels = image if kind == np.uint8 else image * kind(0.99)
    lit = as_image(Variant(pixels, 0, (0, 0), 1.5))
    assert lit.dtype == kind
    assert np.abs(lit - np.minimum(pixels * 1.5, 255)).max() <= 0.5


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_size_and_type_stay(image, kind):
    pixels = image if kind == np.uint8 else image * kind(0.99)
    changed = Variant(pixels, 7.0, (0.3, 0.3), 0.9)
    assert image_shape(changed) == (40, 60)
    assert as_image(changed).shape == (40, 60, 3)
    assert as_image(changed).dtype == kind


def test_variants_are_drawn_within_what_is_allowed_and_by_the_seed(image):
    def draw(seed):
        return variants([image, image], 50, rotation=4, shift=0.1, brightness=0.2, seed=seed)

    drawn = draw(0)
    assert len(drawn) == 100
    assert 3 < max(abs(variant.rotation) for variant in drawn) <= 4
    assert 0.08 < max(abs(part) for variant in drawn for part in variant.shift) <= 0.1
    assert all(0.8 <= variant.brightness <= 1.2 for variant in drawn)
    assert len({variant.rotation for variant in drawn}) == 100
    assert [v.rotation for v in drawn] == [v.rotation for v in draw(0)]
    assert [v.rotation for v in drawn] != [v.rotation for v in draw(1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"augment_copies": -1},
        {"augment_shift": 1.0},
        {"augment_brightness": -0.1},
        {"augment_rotation": 181.0},
    ],
)
def test_settings_that_cannot_be_are_named(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        Settings(**changes)
