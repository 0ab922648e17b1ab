"""Defects of the generated carpet: a dye stain, a cut, a hole, a piece of metal, a loose thread.

A defect is a function of a cloth, a random generator and a difficulty. The cloth, (H, W, 3) with
H = W, in [0, 1], is not modified. The difficulty runs from 0 (large and clear) to 1 (small and
faint). A defect returns the damaged cloth, (H, W, 3) in [0, 1], and the mask, (H, W), of the pixels
that it covers. Pixels outside the mask do not change, except in the soft shadow of something that
lies on top, within `shadow_reach`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Defect = Callable[[Floats, np.random.Generator, float], tuple[Floats, Mask]]
Strand = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Something long and thin: a path (K, 2), x before y, and half its width (K,), in pixels."""

LIGHT = (-0.55, -0.65, 1.0)
"""Direction from the cloth to the lamp: x to the right, y down, z towards the camera."""

_FINER = 4  # strands are drawn this many times finer, then averaged
_LEAST_COVER = 0.1  # a pixel that is covered less does not change, so that masks are exact

_DYES = ((0.9, 0.18, 0.16), (0.2, 0.38, 1.0), (0.21, 1.0, 0.54), (1.0, 0.57, 0.11), (0.84, 0.32, 1))
_METALS = ((0.50, 0.51, 0.54), (0.58, 0.58, 0.57), (0.60, 0.49, 0.24))
_YARNS = ((0.88, 0.87, 0.82), (0.74, 0.13, 0.13), (0.16, 0.3, 0.66), (0.1, 0.1, 0.11))


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Draw noise (size, size): about unit normal at rows by columns points, smooth between them.

    Fewer rows than columns stretch the noise downwards.
    """
    grid = rng.standard_normal((max(rows, 2), max(columns, 2)), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def shadow_reach(size: int) -> int:
    """Return how many pixels a soft shadow can reach beyond the mask, in an image of this size.

    >>> shadow_reach(320)
    13
    """
    step, blur = _shadow(size)
    return math.ceil(math.hypot(*(step * abs(away) + blur + 1 for away in LIGHT[:2])))


def color(cloth: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """A dye soaks into the cloth: another hue, and the weave still visible."""
    size = len(cloth)
    radius = max(_between(0.14, 0.034, difficulty) * size * rng.uniform(0.8, 1.1), 5.0)
    grey = cloth.mean(axis=2)
    # Dye climbs along the raised threads, so its rim follows them.
    climb = 18.0 * (grey - ndimage.gaussian_filter(grey, 4.0, truncate=2.0))
    inside = _blob(size, _place(rng, size, 0.2), radius, rng) + climb
    cover = _cut_off(_ramp(inside / 3), least=0.2)
    strength = _between(0.9, 0.36, difficulty) * rng.uniform(0.9, 1.1)
    uneven = np.clip(1 + 0.2 * smooth_noise(rng, size, 20, 20), 0.5, 1 / strength)
    dye = np.array(_DYES[rng.integers(len(_DYES))], dtype=np.float32)
    dyed = grey[..., None] * dye * np.float32(1.05)
    return _lay(cloth, dyed, cover * strength * uneven), cover > 0


def cut(cloth: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """A blade slits the cloth: a thin dark line, with frayed threads along it."""
    size = len(cloth)
    length = max(_between(0.36, 0.095, difficulty) * size * rng.uniform(0.85, 1.15), 14.0)
    half = _pixels(size, _between(3.6, 1.2, difficulty) * rng.uniform(0.85, 1.15), least=1.0)
    # Across the threads: a slit between two threads would be no cut.
    heading = np.radians(rng.uniform(22, 68)) + np.pi / 2 * rng.integers(4)
    path = _curve(rng, _place(rng, size, 0.25), length, heading, bend=0.25)
    at = np.linspace(0, 1, len(path))
    slit = _draw(size, [(path, half * np.sqrt(np.clip(4 * at * (1 - at), 0.05, 1)))])
    gap = _between(0.07, 0.14, difficulty) * _relief(slit, -2.0)
    damaged = _lay(cloth, gap[..., None], slit)

    frays = []
    for root in path[rng.integers(2, len(path) - 2, round(length / 5))]:
        out = heading + np.pi / 2 * rng.choice((-1, 1)) + rng.normal(0, 0.6)
        fray = _curve(rng, root, rng.uniform(2, 4) * half, out, bend=0.6, steps=4)
        frays.append((fray[2:], np.linspace(0.7, 0.3, 3)))
    loose = _draw(size, frays)
    yarn = rng.uniform(1.0, 1.6) * _mean_colour(cloth) * _relief(loose, 1.0)[..., None]
    return _lay(damaged, yarn, loose * 0.9), (slit > 0) | (loose > 0)


def hole(cloth: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """A piece is torn out: the dark backing shows, and loose threads hang over the rim."""
    size = len(cloth)
    radius = max(_between(0.085, 0.017, difficulty) * size * rng.uniform(0.85, 1.15), 4.5)
    centre = _place(rng, size, 0.2)
    grey = cloth.mean(axis=2)
    ragged = 9.0 * (grey - ndimage.gaussian_filter(grey, 3.0, truncate=2.0))
    torn = _cut_off(_ramp((_blob(size, centre, radius, rng) - ragged) / 1.8))
    # The side of the hole that is nearer to the lamp lies in the rim's shadow.
    depth = _pixels(size, _between(5.0, 2.5, difficulty), least=1.5)
    open_sky = ndimage.shift(ndimage.gaussian_filter(torn, depth / 2), (depth / 2, depth / 2))
    mesh = 1 + 0.25 * smooth_noise(rng, size, size // 3, size // 3)
    backing = _between(0.13, 0.2, difficulty) * (0.3 + 0.7 * np.clip(open_sky, 0, 1)) * mesh
    brown = np.array((1.04, 1.0, 0.94), dtype=np.float32)
    damaged = _lay(cloth, np.clip(backing, 0.02, 1)[..., None] * brown, torn)

    threads = []
    thick = _pixels(size, _between(2.6, 1.0, difficulty), least=0.8)
    for angle in rng.uniform(0, 2 * np.pi, round(6 + radius)):
        root = centre + radius * np.array((math.cos(angle), math.sin(angle)))
        inward = angle + np.pi + rng.normal(0, 0.4)
        path = _curve(rng, root, radius * rng.uniform(0.3, 1.2), inward, bend=0.7, steps=8)[4:]
        threads.append(
            (path, np.linspace(1, 0.6, 5) * thick * rng.choice((0.3, 1.0), p=(0.7, 0.3)))
        )
    loose = _draw(size, threads)
    fibre = 1 + 0.12 * smooth_noise(rng, size, size // 2, size // 2)
    yarn = _mean_colour(cloth) * (_relief(loose, 1.0) * fibre)[..., None]
    return _lay(damaged, yarn, loose), (torn > 0) | (loose > 0)


def metal_contamination(
    cloth: Floats, rng: np.random.Generator, difficulty: float
) -> tuple[Floats, Mask]:
    """A sliver of steel or brass lies on the cloth: a highlight, and a soft shadow."""
    size = len(cloth)
    length = max(_between(0.2, 0.05, difficulty) * size * rng.uniform(0.85, 1.2), 9.0)
    half = _pixels(size, _between(4.2, 1.5, difficulty) * rng.uniform(0.85, 1.15), least=0.9)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 1.2)
    path = _curve(rng, _place(rng, size, 0.2), length, heading, bend)
    at = np.linspace(0, 1, len(path))
    piece = _draw(
        size, [(path, np.maximum(half * (1 - np.abs(at - rng.uniform(0.25, 0.75))), 0.6))]
    )
    metal = np.array(_METALS[rng.integers(len(_METALS))], dtype=np.float32)
    # Glints come and go, as the facets tilt.
    glint = _between(0.5, 0.35, difficulty) * np.abs(smooth_noise(rng, size, size // 8, size // 8))
    colour = (metal * _relief(piece, 2.0)[..., None]) + glint[..., None]
    return _lay(_with_shadow(cloth, piece, 0.6), colour, piece), piece > 0


def thread(cloth: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """A loose thread of another colour lies on the cloth, curled, with a soft shadow."""
    size = len(cloth)
    length = max(_between(0.6, 0.14, difficulty) * size * rng.uniform(0.85, 1.15), 16.0)
    half = _pixels(size, _between(2.7, 1.15, difficulty) * rng.uniform(0.85, 1.15), least=0.9)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.6)
    path = _curve(rng, _place(rng, size, 0.3), length, heading, bend, steps=60)
    yarn = _draw(size, [(path, half * np.clip(rng.normal(1, 0.12, len(path)), 0.7, 1.3))])
    pure = np.array(_YARNS[rng.integers(len(_YARNS))], dtype=np.float32)
    colour = pure + np.float32(0.45 * difficulty) * (_mean_colour(cloth) - pure)
    grain = 1 + 0.12 * smooth_noise(rng, size, size // 2, size // 2)
    shaded = colour * (_relief(yarn, 1.2) * grain)[..., None]
    return _lay(_with_shadow(cloth, yarn, 0.55), shaded, yarn), yarn > 0


DEFECTS: dict[str, Defect] = {
    "color": color,
    "cut": cut,
    "hole": hole,
    "metal_contamination": metal_contamination,
    "thread": thread,
}
"""Every defect by the name of its folder."""


def _between(easy: float, hard: float, difficulty: float) -> float:
    return easy + (hard - easy) * difficulty


def _pixels(size: int, at_320: float, *, least: float) -> float:
    return max(at_320 * size / 320, least)


def _place(rng: np.random.Generator, size: int, margin: float) -> NDArray[np.float64]:
    return rng.uniform(margin, 1 - margin, 2) * size


def _ramp(depth: NDArray[Any]) -> Floats:
    """From 0 at a depth of -0.5 to 1 at 0.5, smoothly."""
    x = np.clip(depth + 0.5, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), dtype=np.float32)


def _cut_off(cover: NDArray[Any], least: float = _LEAST_COVER) -> Floats:
    return np.where(cover >= least, cover, np.float32(0)).astype(np.float32)


def _lay(cloth: Floats, colour: NDArray[Any], cover: NDArray[Any]) -> Floats:
    mixed = cloth + cover[..., None] * (np.clip(colour, 0, 1) - cloth)
    return np.asarray(mixed, dtype=np.float32)


def _mean_colour(cloth: Floats) -> Floats:
    return np.asarray(cloth.mean(axis=(0, 1)), dtype=np.float32)


def _relief(cover: Floats, height: float) -> Floats:
    """Compute how bright something of this height, or depth, is where it covers the cloth."""
    down, right = np.gradient(ndimage.gaussian_filter(cover, 1.0))
    light = 1 - height * (right * LIGHT[0] + down * LIGHT[1])
    return np.asarray(np.clip(light, 0.3, 2.0), dtype=np.float32)


def _shadow(size: int) -> tuple[float, int]:
    """How far a shadow falls, and how far its edge is blurred, in pixels."""
    return _pixels(size, 5.0, least=2.0), math.ceil(_pixels(size, 5.0, least=3.0))


def _with_shadow(cloth: Floats, cover: Floats, strength: float) -> Floats:
    """Darken what something lying on the cloth hides from the lamp."""
    step, blur = _shadow(len(cover))
    cast = ndimage.gaussian_filter(cover, blur / 3, radius=blur)
    fallen = ndimage.shift(cast, (-LIGHT[1] * step, -LIGHT[0] * step), order=1)
    light = 1 - strength * np.clip(fallen * 1.6, 0, 1)
    return np.asarray(cloth * light[..., None], dtype=np.float32)


def _draw(size: int, strands: list[Strand]) -> Floats:
    """Compute which share of each pixel strands cover, (size, size)."""
    canvas = Image.new("L", (size * _FINER, size * _FINER))
    draw = ImageDraw.Draw(canvas)
    for path, half in strands:
        points, widths = path * _FINER, half * _FINER
        for (x, y), (u, v), w in zip(points, points[1:], widths[1:], strict=False):
            draw.line((x, y, u, v), fill=255, width=max(1, round(2 * w)))
            draw.ellipse((u - w, v - w, u + w, v + w), fill=255)
    return _cut_off(np.asarray(canvas.reduce(_FINER), dtype=np.float32) / 255)


def _curve(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    length: float,
    heading: float,
    bend: float,
    steps: int = 24,
) -> NDArray[np.float64]:
    """Draw a smooth path (steps + 1, 2) about a centre; bend is how far it turns, in radians."""
    at = np.linspace(0, 1, steps)
    turn = rng.normal(0, 0.5, 3)
    shape = turn[0] * (2 * at - 1) + turn[1] * np.sin(2 * np.pi * at) + turn[2] * np.cos(5 * at)
    angles = heading + bend * shape
    moves = np.stack((np.cos(angles), np.sin(angles)), axis=1) * (length / steps)
    path = np.concatenate((np.zeros((1, 2)), np.cumsum(moves, axis=0)))
    return np.asarray(path - path[len(path) // 2] + centre)


def _blob(
    size: int, centre: NDArray[np.float64], radius: float, rng: np.random.Generator
) -> Floats:
    """Compute how deep each pixel lies inside an irregular patch, in pixels; negative outside."""
    axis = np.arange(size)
    dx, dy = axis[None, :] - centre[0], axis[:, None] - centre[1]
    angle = np.arctan2(dy, dx)
    rim = np.ones_like(angle)
    for k in range(2, 9):
        rim += rng.normal(0, 0.18 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.clip(rim, 0.55, 1.35) * radius - np.hypot(dx, dy), dtype=np.float32)
