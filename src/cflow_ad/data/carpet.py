"""A generated data set in the MVTec layout: images of a carpet, drawn thread by thread.

An image is made in three steps, each a function of a random generator: `weave` draws the cloth
under even light, a function of `carpet_defects.DEFECTS` may damage it, and `photograph` adds the
effects of a camera and a lamp. Each image has a generator of its own, so the first images are the
same however many are asked for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from cflow_ad._version import __version__
from cflow_ad.data.carpet_defects import DEFECTS, LIGHT, Floats, smooth_noise
from cflow_ad.errors import SettingsError
from cflow_ad.files import claim, naming, write_whole

_FINER = 2  # the cloth is drawn this many times finer than the picture, then averaged
_SMALLEST = 64

_README = """\
A generated carpet
==================

These images show no real carpet: cflow-ad {version} drew them,
with seed {seed}, at {size} x {size} pixels.
They are free of rights: CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/

train/good                good images to learn from
test/good, test/<defect>  images to test on
ground_truth/<defect>     masks, 255 where the defect is
defects.csv               difficulty (0 easy to 1 hard) and area in pixels of each defect
"""


def write_carpet(
    out: Path,
    *,
    train: int = 100,
    good: int = 20,
    per_defect: int = 8,
    size: int = 320,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the carpet data set to a folder, in the MVTec layout, as 8-bit PNG.

    `README.txt` and `defects.csv` are written too (path, defect, difficulty in [0, 1], area in
    pixels; one row for each defective image). The same arguments give the same pixels.

    Args:
        out: The folder to write; must be empty or not exist yet.
        train: Number of good images to train on.
        good: Number of good images to test on.
        per_defect: Number of test images of each kind of defect.
        size: Height and width of an image in pixels, at least 64.
        seed: At least 0; another seed gives other images of the same carpet.
        progress: Called after each image with the number of images written and the number in all.

    Raises:
        DataError: `out` is a file, or a folder that is not empty.
        SettingsError: A count, the size or the seed is too small.
    """
    for name, value, least in (
        ("train", train, 0),
        ("good", good, 0),
        ("per_defect", per_defect, 0),
        ("size", size, _SMALLEST),
        ("seed", seed, 0),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    claim(out)

    readme = _README.format(version=__version__, seed=seed, size=size)
    write_whole(out / "README.txt", readme)
    folders = [("train/good", train), ("test/good", good)]
    folders += [(f"test/{name}", per_defect) for name in DEFECTS]
    total, done, rows = sum(number for _, number in folders), 0, []
    for folder_index, (folder, number) in enumerate(folders):
        name = folder.rpartition("/")[2]
        for index in range(number):
            rng = np.random.default_rng([seed, folder_index, index])
            cloth, path = weave(rng, size), f"{folder}/{index:03}.png"
            if name in DEFECTS:
                difficulty = rng.uniform()
                cloth, mask = DEFECTS[name](cloth, rng, difficulty)
                truth = out / "ground_truth" / name / f"{index:03}_mask.png"
                _save(truth, mask.astype(np.uint8) * 255)
                rows.append((path, name, f"{difficulty:.3f}", int(mask.sum())))
            _save(out / path, photograph(cloth, rng))
            done += 1
            progress(done, total)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "defect", "difficulty", "area"))
    writer.writerows(rows)
    write_whole(out / "defects.csv", table.getvalue())


def weave(rng: np.random.Generator, size: int) -> Floats:
    """Draw a piece of grey twill under even light.

    A height for each point, the upper of a warp and a weft thread, gives the light and the
    shadows; a colour for each thread gives the rest. There are about 40 threads across.

    Returns:
        The cloth, (size, size, 3), in [0, 1].

    >>> weave(np.random.default_rng(0), 64).shape
    (64, 64, 3)
    """
    fine = size * _FINER
    pitch = max(size / 40, 6.0) * _FINER * rng.uniform(0.94, 1.06)
    threads = int(fine / pitch)
    u, v = _thread_coordinates(rng, fine, pitch, threads)
    column, row = u.astype(np.int32), v.astype(np.int32)
    many = 3 * threads + 8
    warp = _thread_height(rng, u, column, v, many, first_over=1)
    weft = _thread_height(rng, v, row, u, many, first_over=3)
    over = warp > weft
    height = np.maximum(warp, weft)

    # Fibres run along whichever thread is on top, as fine ridges and streaks.
    hairs = rng.standard_normal((fine, fine), dtype=np.float32)
    streaks = np.where(
        over,
        ndimage.uniform_filter1d(hairs, 2 * _FINER + 1, axis=0),
        ndimage.uniform_filter1d(hairs, 2 * _FINER + 1, axis=1),
    )
    height += np.float32(0.075) * streaks
    light = _light(height, steepness=0.62 * pitch / 2)
    dye = np.clip(rng.normal(1.0, 0.12, (2, many)), 0.74, 1.26).astype(np.float32)
    light *= np.where(over, np.float32(0.92) * dye[0][column], np.float32(1.06) * dye[1][row])
    light *= 1 + np.float32(0.2) * streaks

    cloth, low = _coarser(light), _coarser(height)
    hollow = ndimage.gaussian_filter(low, 0.35 * pitch / _FINER) - low
    cloth *= np.clip(1 - np.float32(1.15) * hollow, 0.2, 1.25)
    # Wear and dust: broad; a mottled yarn: narrow.
    cloth *= 1 + np.float32(0.05) * smooth_noise(rng, size, 10, 10)
    cloth *= 1 + np.float32(0.09) * smooth_noise(rng, size, size // 3, size // 3)
    cloth = np.clip(np.float32(0.21) * cloth, 0, 1) ** np.float32(1 / 2.2)
    cloth += _fuzz(rng, size) * (np.float32(0.75) - cloth)
    # Warp and weft were dyed apart: one is a trace warmer.
    warmth = np.float32(0.012) * (2 * _coarser(over.astype(np.float32)) - 1)
    return np.stack((cloth * (1 + warmth), cloth, cloth * (1 - warmth)), axis=2)


def photograph(image: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add the effects of a camera: uneven light, tint, contrast, a slight defocus, sensor noise.

    The cloth, (H, W, 3) with H = W, in [0, 1], is not modified; the photograph is RGB, 0 to 255.
    """
    size = len(image)
    blur = rng.uniform(0.3, 0.6)
    image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=3.0)
    contrast = rng.uniform(0.93, 1.07)
    level, slope, angle = rng.uniform(0.9, 1.1), rng.uniform(0, 0.09), rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    lamp = 1 + slope * (np.cos(angle) * x + np.sin(angle) * y)
    lamp -= rng.uniform(0.02, 0.07) * (x * x + y * y)
    tint = 1 + rng.normal(0, 0.01, 3)
    image = 0.42 + contrast * (image - 0.42)
    image = image * (level * lamp).astype(np.float32)[..., None] * tint.astype(np.float32)
    grain = rng.standard_normal((size, size, 4), dtype=np.float32)
    noise = grain[..., :1] + np.float32(0.5) * grain[..., 1:]
    noise *= np.float32(rng.uniform(0.006, 0.012))
    # A brighter pixel counted more photons, so it is noisier.
    image = image + noise * np.sqrt(np.clip(image, 0.05, 1) / np.float32(0.42))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _thread_coordinates(
    rng: np.random.Generator, fine: int, pitch: float, threads: int
) -> tuple[Floats, Floats]:
    """Compute the coordinates of each point on the loom, in threads; positive everywhere."""
    axis = (np.arange(fine, dtype=np.float32) - fine / 2) / np.float32(pitch)
    turn = np.radians(rng.uniform(-3, 3))
    cos, sin = axis * np.float32(np.cos(turn)), axis * np.float32(np.sin(turn))
    start_u, start_v = (rng.uniform(0, 4, 2) + threads).astype(np.float32)
    u = cos[None, :] - sin[:, None] + start_u
    v = sin[None, :] + cos[:, None] + start_v
    # Broad drifts bend the whole cloth; narrow ones let each thread waver on its own.
    few = max(threads // 3, 2)
    for place, rows, columns in ((u, few, threads), (v, threads, few)):
        place += np.float32(0.25) * smooth_noise(rng, fine, 4, 4)
        place += np.float32(0.09) * smooth_noise(rng, fine, rows, columns)
    return u, v


def _thread_height(
    rng: np.random.Generator,
    across: Floats,
    number: NDArray[np.int32],
    along: Floats,
    many: int,
    *,
    first_over: int,
) -> Floats:
    """Compute the height of one set of threads: round, passing under the others, with plies."""
    half = (0.5 * np.clip(rng.normal(0.97, 0.07, many), 0.8, 1.1)).astype(np.float32)
    whole = number.astype(np.float32)
    offset = across - whole - np.float32(0.5)
    height = np.sqrt(np.maximum(1 - (offset / half[number]) ** 2, 0))
    height *= np.float32(0.55)
    # Over two, under two, each thread one step later than its neighbour: a twill.
    height += np.float32(0.34) * np.cos(
        np.float32(np.pi / 2) * (along + whole - np.float32(first_over))
    )
    wound = rng.uniform(0, 2 * np.pi, many).astype(np.float32)[number]
    ply = np.float32(2 * np.pi) * (along * np.float32(1.6) + offset * np.float32(1.5))
    height += np.float32(0.04) * np.sin(ply + wound)
    return np.asarray(height, dtype=np.float32)


def _light(height: Floats, steepness: float) -> Floats:
    """Compute how bright a matt surface of this height is, 1 where it is flat."""
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * np.float32(steepness)
    slope_y[1:-1] = (height[2:] - height[:-2]) * np.float32(steepness)
    light = LIGHT[2] - slope_x * np.float32(LIGHT[0]) - slope_y * np.float32(LIGHT[1])
    light /= np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    return np.maximum(light, np.float32(0.12))


def _fuzz(rng: np.random.Generator, size: int) -> Floats:
    """Draw short hairs that stand out of the yarn, as an opacity (size, size) in [0, 1]."""
    canvas = Image.new("L", (size * 2, size * 2))
    draw = ImageDraw.Draw(canvas)
    number = size * size // 260
    starts = rng.uniform(0, size * 2, (number, 2))
    heading = rng.uniform(0, 2 * np.pi, number)
    angles = heading[:, None] + rng.normal(0, 0.35, (number, 3)).cumsum(axis=1)
    steps = np.stack((np.cos(angles), np.sin(angles)), axis=2) * rng.uniform(2, 7, (number, 1, 1))
    paths = np.concatenate((starts[:, None], starts[:, None] + steps.cumsum(axis=1)), axis=1)
    shades = rng.integers(40, 190, number)
    for path, shade in zip(paths.reshape(number, -1).tolist(), shades.tolist(), strict=True):
        draw.line(path, fill=shade)
    return np.asarray(canvas.reduce(2), dtype=np.float32) / np.float32(255)


def _coarser(fine: Floats) -> Floats:
    return np.array(Image.fromarray(fine).reduce(_FINER))


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        Image.fromarray(pixels).save(path, compress_level=3)
