"""Every image is encoded once; what is kept fits the budget, the same share of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad.errors import SettingsError
from cflow_ad.fitting.cache import build_cache
from cflow_ad.method import Method
from cflow_ad.scoring.canvas import Sizing
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

SIZING = Sizing(64, 64)


@pytest.fixture(scope="module")
def mixed(images):
    """Images of three shapes."""
    return [*images[:4], *(image[:48] for image in images[4:7]), *(i[:, :40] for i in images[7:9])]


def build(encoder, sources, **changes):
    settings = Settings(
        seed=changes.pop("seed", 0),
        feature_budget=changes.pop("budget", 1.0),
        method=Method(positions="absolute", place_means=False, place_scales=0.0),
    )
    return build_cache(encoder, sources, View(sizing=SIZING), settings, **changes)


def same(ours, theirs):
    return all(
        np.array_equal(a.vectors, b.vectors) and np.array_equal(a.positions, b.positions)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_files_hold_what_memory_holds(encoder, mixed, tmp_path):
    assert same(build(encoder, mixed), build(encoder, mixed, folder=tmp_path, key="k"))


def test_vectors_are_the_encoders_at_their_positions(encoder, images):
    (level, _) = build(encoder, images[:1])
    pixels = torch.from_numpy(SIZING.prepare(images[0]).pixels)[None]
    expected = encoder(pixels)[0][0].permute(1, 2, 0)
    z, rows, columns = level.take(np.arange(len(level)))
    assert len(level) == expected.shape[0] * expected.shape[1]
    torch.testing.assert_close(z, expected[rows, columns], rtol=1e-4, atol=1e-5)


def test_what_lies_beyond_an_image_is_left_out(encoder, images):
    strip = images[0][:27]  # 18 of the canvas's 32 rows, so the third row of cells is outside
    (fine, coarse) = build(encoder, [strip])
    assert SIZING.valid_shape(strip.shape[:2]) == (18, 64)
    assert fine.positions[:, 0].max() == 1
    assert len(fine) == 2 * 8
    assert len(coarse) == 1 * 4


@pytest.mark.parametrize("share", [0.5, 0.11])
def test_beyond_the_budget_every_image_keeps_the_same_share(encoder, images, share):
    whole = build(encoder, images)
    size = sum(level.vectors.nbytes + level.positions.nbytes for level in whole)
    kept = build(encoder, images, budget=share * size / 2**30)
    assert sum(level.vectors.nbytes + level.positions.nbytes for level in kept) <= share * size
    for level, everything in zip(kept, whole, strict=True):
        each = len(everything) // len(images)
        assert abs(len(level) - len(everything) * share) <= 2
        # Every kept vector is one of its own image's, at its own position.
        for number in range(len(images)):
            mine = level.of_image(number)
            assert abs(mine.stop - mine.start - each * share) < 1
            here = {tuple(p): v for v, p in enumerate(everything.positions[:each])}
            index = [number * each + here[tuple(p)] for p in level.positions[mine]]
            assert np.array_equal(level.vectors[mine], everything.vectors[index])
    assert same(kept, build(encoder, images, budget=share * size / 2**30))


def test_beyond_the_budget_each_image_and_seed_draws_its_own_places(encoder, images):
    (first, _), (other, _) = (build(encoder, images, budget=2e-5, seed=seed) for seed in (0, 1))
    assert len(first) == len(other)
    assert not np.array_equal(first.positions, other.positions)
    of_image = [first.positions[first.of_image(number)] for number in (0, 1)]
    assert all(1 < len(positions) < 64 for positions in of_image)
    assert not np.array_equal(*of_image)


def test_a_budget_of_less_than_a_vector_of_each_image_is_an_error(encoder, images):
    with pytest.raises(SettingsError, match="feature_budget is 1e-06: it leaves 0 feature"):
        build(encoder, images, budget=1e-6)


@pytest.mark.parametrize("budget", [1.0, 1e-5])
def test_a_stopped_run_continues_to_the_same_features(encoder, mixed, tmp_path, budget):
    whole = build(encoder, mixed, budget=budget)

    stopped_at = []

    def stop(progress):
        if progress.done >= 4:
            stopped_at.append(progress.done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(encoder, mixed, budget=budget, folder=tmp_path, key="k", progress=stop)
    started = []
    resumed = build(
        encoder,
        mixed,
        budget=budget,
        folder=tmp_path,
        key="k",
        progress=lambda progress: started.append(progress.done),
    )
    assert started[0] == stopped_at[0] < len(mixed)
    assert same(whole, resumed)


def test_files_overwritten_by_another_run_are_ignored(encoder, images, tmp_path):
    """A run, then one of other images that is killed before it records anything, then the first
    again: the files do not hold the first one's vectors.
    """
    build(encoder, images[:3], folder=tmp_path, key="one")
    before = {path.name for path in tmp_path.iterdir()}

    def kill(progress):
        left.update(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt  # before the first image, and so before anything is recorded

    left = set()
    with pytest.raises(KeyboardInterrupt):
        build(encoder, images[3:6], folder=tmp_path, key="two", progress=kill)
    assert before - left == {"encoded-1.json"}
    again = build(encoder, images[:3], folder=tmp_path, key="one")
    assert same(again, build(encoder, images[:3]))


def test_files_with_another_key_are_ignored(encoder, images, tmp_path):
    build(encoder, images[:3], folder=tmp_path, key="one")
    started = []
    other = build(
        encoder,
        images[3:6],
        folder=tmp_path,
        key="two",
        progress=lambda progress: started.append(progress.done),
    )
    assert started[0] == 0
    assert same(other, build(encoder, images[3:6]))


@pytest.mark.parametrize("damage", ["missing", "cut short", "of another shape"])
def test_damaged_files_are_written_again(encoder, images, tmp_path, damage):
    whole = build(encoder, images[:4], folder=tmp_path, key="k")
    expected = [np.array(level.vectors) for level in whole]
    del whole
    file = tmp_path / "features-1.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        np.save(file, np.zeros((3, 3), np.float32))
    again = build(encoder, images[:4], folder=tmp_path, key="k")
    for level, values in zip(again, expected, strict=True):
        np.testing.assert_allclose(level.vectors, values, rtol=1e-5, atol=1e-5)
