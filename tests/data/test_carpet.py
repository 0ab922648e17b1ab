from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cflow_ad import __version__
from cflow_ad.data.carpet import photograph, weave, write_carpet
from cflow_ad.data.carpet_defects import DEFECTS, shadow_reach
from cflow_ad.errors import DataError, SettingsError

SIZE = 96
CASTS_SHADOW = {"metal_contamination", "thread"}

every_defect = pytest.mark.parametrize("name", DEFECTS)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def pictures(root: Path) -> dict[str, np.ndarray]:
    return {p.relative_to(root).as_posix(): read(p) for p in sorted(root.rglob("*.png"))}


@pytest.fixture(scope="module")
def carpet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("carpet")  # exists and is empty: allowed
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    write_carpet(root, train=3, good=2, per_defect=2, size=SIZE, seed=5, progress=progress)
    assert calls == [(done, 15) for done in range(1, 16)]
    return root


# The folder


def test_layout_is_mvtec(carpet: Path) -> None:
    expected = {f"train/good/{i:03}.png" for i in range(3)}
    expected |= {f"test/good/{i:03}.png" for i in range(2)}
    for name in DEFECTS:
        expected |= {f"test/{name}/{i:03}.png" for i in range(2)}
        expected |= {f"ground_truth/{name}/{i:03}_mask.png" for i in range(2)}
    expected |= {"README.txt", "defects.csv"}
    assert {p.relative_to(carpet).as_posix() for p in carpet.rglob("*") if p.is_file()} == expected
    assert set(DEFECTS) == {"color", "cut", "hole", "metal_contamination", "thread"}


def test_images_are_rgb_and_masks_are_0_or_255(carpet: Path) -> None:
    for path in carpet.rglob("*.png"):
        with Image.open(path) as image:
            is_mask = path.name.endswith("_mask.png")
            assert image.mode == ("L" if is_mask else "RGB")
            assert image.size == (SIZE, SIZE)
            if is_mask:
                assert set(np.unique(np.asarray(image))) == {0, 255}


def test_table_agrees_with_the_masks(carpet: Path) -> None:
    with (carpet / "defects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(DEFECTS)
    for row in rows:
        path = Path(row["path"])
        assert (carpet / path).is_file()
        assert path.parent.name == row["defect"]
        assert 0 <= float(row["difficulty"]) <= 1
        mask = read(carpet / "ground_truth" / row["defect"] / f"{path.stem}_mask.png")
        assert int(row["area"]) == np.count_nonzero(mask)


def test_readme_says_who_made_it(carpet: Path) -> None:
    text = (carpet / "README.txt").read_text(encoding="utf-8")
    assert __version__ in text
    assert "seed 5" in text
    assert "CC0" in text


def test_nothing_asked_for_is_an_empty_data_set(tmp_path: Path) -> None:
    write_carpet(tmp_path / "a", train=0, good=0, per_defect=0)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"README.txt", "defects.csv"}


# Reproducibility


def test_fewer_images_are_the_same_ones_and_another_seed_gives_others(
    carpet: Path, tmp_path: Path
) -> None:
    images = pictures(carpet)
    for seed in (5, 6):
        write_carpet(tmp_path / str(seed), train=1, good=1, per_defect=1, size=SIZE, seed=seed)
        fewer = pictures(tmp_path / str(seed))
        assert fewer.keys() < images.keys()
        assert all((fewer[name] == images[name]).all() == (seed == 5) for name in fewer)


def test_no_two_images_are_alike(carpet: Path) -> None:
    images = [p.astype(float) for name, p in pictures(carpet).items() if "_mask" not in name]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert np.abs(one - other).mean() > 4


# Refusals


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty") as caught:
        write_carpet(tmp_path, train=1)
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        write_carpet(tmp_path / "file", train=1)


@pytest.mark.parametrize(
    "bad", [{"train": -1}, {"good": -1}, {"per_defect": -1}, {"size": 63}, {"seed": -1}]
)
def test_a_value_too_small_is_refused_by_name(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(bad))):
        write_carpet(tmp_path / "a", **bad)
    assert not (tmp_path / "a").exists()


# The cloth


@pytest.mark.parametrize("size", [64, 97])
def test_cloth_is_grey_and_has_a_weave(size: int) -> None:
    cloth = weave(np.random.default_rng(1), size)
    assert cloth.shape == (size, size, 3)
    assert cloth.dtype == np.float32
    assert 0 <= cloth.min() <= cloth.max() <= 1
    assert np.ptp(cloth, axis=2).max() < 0.05
    assert cloth.std() > 0.05


def test_the_weave_repeats_as_a_twill() -> None:
    cloth = weave(np.random.default_rng(2), 320).mean(axis=2)
    window = np.hanning(320) * np.hanning(320)[:, None]
    spectrum = np.abs(np.fft.fft2((cloth - cloth.mean()) * window))
    # Four of about 40 threads make one repeat, both ways; look between light and single threads.
    spectrum[:5, :5] = spectrum[-5:, :5] = 0
    peak = spectrum[np.r_[:20, -20:0], :20].argmax()
    row, column = np.unravel_index(peak, (40, 20))
    assert 8 <= column <= 12
    assert 8 <= row <= 12


def test_a_picture_of_the_same_cloth_is_another_picture_of_it() -> None:
    cloth = weave(np.random.default_rng(3), SIZE)
    one, other = (photograph(cloth, np.random.default_rng(seed)) for seed in (0, 1))
    assert one.shape == (SIZE, SIZE, 3)
    assert one.dtype == np.uint8
    assert (one != other).mean() > 0.5
    alike = np.corrcoef(one.mean(axis=2).ravel(), other.mean(axis=2).ravel())[0, 1]
    assert alike > 0.9


# The defects


@every_defect
def test_a_mask_is_exact_and_neither_empty_nor_large(name: str) -> None:
    for seed in range(9):
        rng = np.random.default_rng(seed)
        cloth = weave(rng, SIZE)
        kept = cloth.copy()
        damaged, mask = DEFECTS[name](cloth, rng, seed / 8)
        np.testing.assert_array_equal(cloth, kept)
        assert damaged.shape == cloth.shape
        assert damaged.dtype == np.float32
        assert 0 <= damaged.min() <= damaged.max() <= 1
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == np.bool_
        assert 8 <= mask.sum() <= 0.15 * mask.size

        change = np.abs(damaged - cloth).max(axis=2)
        far = ndimage.distance_transform_edt(~mask)
        assert far[change > 0].max() <= (shadow_reach(SIZE) if name in CASTS_SHADOW else 0)
        assert (change[mask] > 0).mean() > 0.95


@every_defect
def test_harder_is_smaller_and_fainter_but_can_still_be_seen(name: str) -> None:
    area, change = np.zeros(2), np.zeros(2)
    for seed in range(6):
        cloth = weave(np.random.default_rng(seed), SIZE)
        for difficulty in (0, 1):
            damaged, mask = DEFECTS[name](cloth, np.random.default_rng(seed), difficulty)
            area[difficulty] += mask.sum()
            change[difficulty] += np.abs(damaged - cloth).max(axis=2)[mask].mean()
        before, after = (photograph(c, np.random.default_rng(seed)) for c in (cloth, damaged))
        seen = np.abs(after.astype(float) - before).max(axis=2)[mask]
        # Two pictures of one cloth differ by noise of about 3 in 255.
        assert np.quantile(seen, 0.9) > 15
    assert area[1] < 0.7 * area[0]
    assert change[1] < change[0]


def test_dye_keeps_the_weave_and_changes_the_hue() -> None:
    rng = np.random.default_rng(4)
    cloth = weave(rng, SIZE)
    damaged, mask = DEFECTS["color"](cloth, rng, 0.0)
    assert np.ptp(damaged[mask], axis=1).mean() > 5 * np.ptp(cloth[mask], axis=1).mean()
    inner = ndimage.binary_erosion(mask, iterations=4)
    brightest = damaged.max(axis=2)[inner]
    assert np.corrcoef(brightest, cloth.mean(axis=2)[inner])[0, 1] > 0.8


@pytest.mark.parametrize("name", ["cut", "hole"])
def test_what_is_missing_is_dark(name: str) -> None:
    rng = np.random.default_rng(4)
    cloth = weave(rng, 320)
    damaged, mask = DEFECTS[name](cloth, rng, 0.0)
    assert np.median(damaged[mask]) < 0.5 * np.median(cloth[mask])
