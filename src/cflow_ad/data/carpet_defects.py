"""Defects for the generated carpet: a dye stain, a cut, a hole, a piece of metal, a loose thread.

A defect is a function of a cloth, a random generator and a difficulty. It returns the damaged
cloth and the mask of exactly the pixels that the defect covers: whatever lies outside the mask is
left as it was, or lies in the soft shadow of something on top, within `shadow_reach`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Defect = Callable[[Floats, np.random.Generator, float], tuple[Floats, Mask]]

LIGHT = (-0.55, -0.65, 1.0)
"""Where the lamp is, seen from the cloth: x to the right, y down, z towards the camera."""

_LEAST_COVER = 0.1  # a pixel covered less than this is not changed at all, so a mask can be exact

_DYES = (
    (0.80, 0.16, 0.14),
    (0.16, 0.30, 0.78),
    (0.12, 0.56, 0.30),
    (0.88, 0.50, 0.10),
    (0.52, 0.20, 0.62),
    (0.48, 0.30, 0.12),
)
_METALS = ((0.50, 0.51, 0.54), (0.58, 0.58, 0.57), (0.60, 0.49, 0.24))
_YARNS = (
    (0.88, 0.87, 0.82),
    (0.74, 0.13, 0.13),
    (0.16, 0.30, 0.66),
    (0.10, 0.10, 0.11),
    (0.80, 0.66, 0.20),
    (0.20, 0.50, 0.30),
)


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Noise without edges, (size, size): about unit normal at rows by columns points, soft between.

    Fewer rows than columns stretch the noise downwards.
    """
    grid = rng.standard_normal((max(rows, 2), max(columns, 2)), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def shadow_reach(size: int) -> int:
    """How many pixels a soft shadow can reach beyond the mask, in an image of this size.

    >>> shadow_reach(320)
    13
    """
    x, y = (_shadow_step(size) * abs(away) + _shadow_blur(size) + 1 for away in LIGHT[:2])
    return math.ceil(math.hypot(x, y))


def color(image: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """Let a dye soak into the cloth: another hue, the weave still visible.

    Args:
        image: cloth (H, W, 3) with H = W, in [0, 1]; not modified.
        rng: the source of every choice.
        difficulty: 0 (large and vivid) to 1 (small and faint).

    Returns:
        The stained cloth, (H, W, 3) in [0, 1], and the mask (H, W), true where there is dye.
    """
    size = image.shape[0]
    radius = _between(0.14, 0.034, difficulty) * size * rng.uniform(0.8, 1.1)
    softness = _between(3.5, 2.5, difficulty)
    grey = image.mean(axis=2)
    # Dye climbs along the raised threads, so its rim follows them.
    climb = 18.0 * (grey - ndimage.gaussian_filter(grey, 4.0, truncate=2.0))
    inside = _blob(size, _place(rng, size, 0.2), max(radius, 5.0), rng, roughness=0.16)
    cover = _smooth_step((inside + climb) / softness + 0.5) * (inside > -6.0)
    cover = _cut_off(cover, least=0.2)
    strength = _between(0.9, 0.36, difficulty) * rng.uniform(0.9, 1.1)
    uneven = np.clip(1.0 + 0.2 * smooth_noise(rng, size, 20, 20), 0.5, 1.0 / strength)
    # Near its rim the dye runs thin.
    uneven *= 0.75 + 0.25 * _smooth_step(inside / (0.35 * radius))
    dye = np.array(_DYES[rng.integers(len(_DYES))], dtype=np.float32)
    dyed = grey[..., None] * (dye / dye.max()) * np.float32(1.05)
    opacity = (cover * strength * uneven).astype(np.float32)
    return _lay(image, dyed, opacity), cover > 0


def cut(image: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """Slit the cloth with a blade: a thin dark line, the severed threads frayed along its lips.

    Args and returns as for `color`; the mask holds the slit and the frayed ends.
    """
    size = image.shape[0]
    length = max(_between(0.36, 0.095, difficulty) * size * rng.uniform(0.85, 1.15), 14.0)
    half = _pixels(size, _between(3.8, 1.4, difficulty) * rng.uniform(0.85, 1.15), least=1.2)
    # Across the threads: a slit between two threads would be no cut.
    heading = np.radians(rng.uniform(22, 68)) + np.pi / 2 * rng.integers(4)
    path = _curve(rng, _place(rng, size, 0.25), length, heading, bend=0.25)
    at = np.linspace(0, 1, len(path))
    lens = half * np.sqrt(np.clip(4 * at * (1 - at), 0, 1)) * (1 + 0.2 * np.sin(9 * at + heading))

    slit = _Strands(size)
    slit.add(path, np.maximum(lens, 0.35))
    dark = _between(0.07, 0.14, difficulty)
    # The lip nearer to the lamp shades its side of the gap.
    lit = -(slit.across_x * LIGHT[0] + slit.across_y * LIGHT[1])
    gap = np.clip(dark * (1 + 0.8 * lit), 0.02, 1).astype(np.float32)
    image = _lay(image, gap[..., None], slit.cover)

    frays = _Strands(size)
    # A narrow slit has room for few frayed ends before they hide it.
    for _ in range(round(length / max(1.5, 5 / half))):
        k = int(rng.integers(2, len(path) - 2))
        forward = path[k + 1] - path[k - 1]
        side = rng.choice((-1.0, 1.0))
        normal = side * np.array((-forward[1], forward[0])) / np.hypot(*forward)
        root = path[k] + normal * (lens[k] + rng.uniform(0.0, 1.6))
        out = math.atan2(-normal[1], -normal[0]) + rng.normal(0, 0.8)
        reach = rng.uniform(0.4, 1.4) * lens[k] + rng.uniform(0.5, 3.0)
        fibre = _curve(rng, root, 2 * reach, out, bend=0.6, steps=4)[2:]
        frays.add(fibre, np.linspace(0.7, 0.3, len(fibre)), rng.uniform(1.0, 1.6))
    yarn = _cloth_colour(image, slit.cover)
    image = _lay(image, frays.shaded(yarn), frays.cover * np.float32(0.9))
    return image, (slit.cover > 0) | (frays.cover > 0)


def hole(image: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """Tear a piece out: the dark backing shows, loose threads hang over the rim.

    Args and returns as for `color`; the mask holds the hole and the threads that hang into it.
    """
    size = image.shape[0]
    radius = max(_between(0.085, 0.017, difficulty) * size * rng.uniform(0.85, 1.15), 4.5)
    centre = _place(rng, size, 0.2)
    grey = image.mean(axis=2)
    ragged = 9.0 * (grey - ndimage.gaussian_filter(grey, 3.0, truncate=2.0))
    inside = _blob(size, centre, radius, rng, roughness=0.13)
    cover = _cut_off(_smooth_step((inside - ragged) / 1.8 + 0.5) * (inside > -4.0))

    # Depth: what the rim hides from the lamp is darker than what it does not.
    depth = _pixels(size, _between(5.0, 2.5, difficulty), least=1.5)
    open_sky = ndimage.gaussian_filter(cover, depth / 2)
    floor = ndimage.shift(open_sky, (depth / 2, depth / 2), order=1)
    mesh = 1 + 0.25 * smooth_noise(rng, size, size // 3, size // 3)
    backing = _between(0.13, 0.2, difficulty) * (0.3 + 0.7 * np.clip(floor, 0, 1)) * mesh
    brown = np.array((1.04, 1.0, 0.94), dtype=np.float32)
    image = _lay(image, np.clip(backing, 0.02, 1)[..., None] * brown, cover)

    loose = _Strands(size)
    thick = _pixels(size, _between(2.6, 1.0, difficulty), least=0.8)
    for angle in rng.uniform(0, 2 * np.pi, round(6 + radius)):
        outward = np.array((math.cos(angle), math.sin(angle)))
        root = centre + outward * _rim(inside, centre, outward)
        inward = angle + np.pi + rng.normal(0, 0.4)
        # Some are whole yarns cut short, most are single fibres.
        whole = rng.random() < 0.35
        reach = radius * (rng.uniform(0.15, 0.5) if whole else rng.uniform(0.15, 0.7))
        yarn = _curve(rng, root, 2 * reach, inward, bend=0.7, steps=8)[3:]
        width = thick * (1.0 if whole else rng.uniform(0.2, 0.35))
        tone = rng.uniform(0.75, 1.1) if whole else rng.uniform(0.8, 1.25)
        loose.add(yarn, np.linspace(width, width * 0.6, len(yarn)), tone)
    yarn_colour = _cloth_colour(image, cover)
    fibre = 1 + 0.12 * smooth_noise(rng, size, size // 2, size // 2)
    image = _lay(image, loose.shaded(yarn_colour) * fibre[..., None], loose.cover)
    return image, (cover > 0) | (loose.cover > 0)


def metal_contamination(
    image: Floats, rng: np.random.Generator, difficulty: float
) -> tuple[Floats, Mask]:
    """Drop a sliver or a bit of wire on the cloth: steel or brass, a highlight, a soft shadow.

    Args and returns as for `color`; the mask holds the metal, not its shadow.
    """
    size = image.shape[0]
    sliver = rng.random() < 0.5
    length = max(_between(0.2, 0.05, difficulty) * size * rng.uniform(0.85, 1.2), 9.0)
    thick = _between(5.5, 2.0, difficulty) if sliver else _between(3.0, 1.5, difficulty)
    half = _pixels(size, thick * rng.uniform(0.85, 1.15), least=1.0)
    heading = rng.uniform(0, 2 * np.pi)
    bend = rng.uniform(0.0, 0.25) if sliver else rng.uniform(0.2, 1.4)
    path = _curve(rng, _place(rng, size, 0.2), length, heading, bend)
    at = np.linspace(0, 1, len(path))
    profile = np.full(len(path), half)
    if sliver:
        widest = rng.uniform(0.25, 0.75)
        profile *= (1 - np.abs(at - widest)) * (0.75 + 0.25 * np.cos(17 * at))
    piece = _Strands(size)
    piece.add(path, np.maximum(profile, 0.6))

    metal = np.array(_METALS[rng.integers(len(_METALS))], dtype=np.float32)
    nx, ny, nz = piece.normal(flatness=0.85 if sliver else 1.0)
    # Glints come and go along the piece, as its facets tilt.
    glint = 0.55 + 0.45 * np.sin(piece.along * rng.uniform(0.15, 0.45) + rng.uniform(0, 6))
    half_way = np.array(LIGHT) / np.linalg.norm(LIGHT) + (0, 0, 1)
    half_way /= np.linalg.norm(half_way)
    shine = np.clip(nx * half_way[0] + ny * half_way[1] + nz * half_way[2], 0, 1) ** 16 * glint
    body = metal * (0.1 + 1.15 * _lambert(nx, ny, nz) ** 2.5)[..., None]
    colour = body + (_between(0.85, 0.65, difficulty) * shine)[..., None]
    image = _with_shadow(image, piece.cover, 0.6)
    return _lay(image, colour, piece.cover), piece.cover > 0


def thread(image: Floats, rng: np.random.Generator, difficulty: float) -> tuple[Floats, Mask]:
    """Lay a loose thread of another colour on the cloth, curled, with a soft shadow.

    Args and returns as for `color`; the mask holds the thread, not its shadow.
    """
    size = image.shape[0]
    length = max(_between(0.6, 0.14, difficulty) * size * rng.uniform(0.85, 1.15), 16.0)
    half = _pixels(size, _between(2.7, 1.15, difficulty) * rng.uniform(0.85, 1.15), least=0.9)
    heading = rng.uniform(0, 2 * np.pi)
    path = _curve(rng, _place(rng, size, 0.3), length, heading, rng.uniform(0.9, 2.6), steps=60)
    uneven = 1 + 0.12 * rng.standard_normal(len(path))
    yarn = _Strands(size)
    yarn.add(path, half * np.clip(uneven, 0.7, 1.3))
    for end, back in ((path[-1], path[-4]), (path[0], path[3])):
        away = math.atan2(*(end - back)[::-1])
        for _ in range(4):
            reach = half * rng.uniform(1.0, 3.0)
            fibre = _curve(rng, end, 2 * reach, away + rng.normal(0, 0.5), bend=0.8, steps=8)[4:]
            yarn.add(fibre, np.linspace(0.25 * half, 0.3, len(fibre)))

    pure = np.array(_YARNS[rng.integers(len(_YARNS))], dtype=np.float32)
    colour = pure + np.float32(0.45 * difficulty) * (_cloth_colour(image, yarn.cover) - pure)
    # Plies wind around each other: stripes that slant across the thread.
    ply = 1 + 0.14 * np.sin(2 * np.pi * (yarn.along / (3.4 * half) + 0.45 * yarn.across))
    grain = 1 + 0.08 * smooth_noise(rng, size, size // 2, size // 2)
    image = _with_shadow(image, yarn.cover, 0.55)
    shaded = yarn.shaded(colour) * (ply * grain)[..., None]
    return _lay(image, shaded.astype(np.float32), yarn.cover), yarn.cover > 0


DEFECTS: dict[str, Defect] = {
    "color": color,
    "cut": cut,
    "hole": hole,
    "metal_contamination": metal_contamination,
    "thread": thread,
}
"""Every defect by the name of its folder."""


class _Strands:
    """Long thin things seen from above: which pixel is covered, and where on a strand it lies."""

    def __init__(self, size: int) -> None:
        self.cover: Floats = np.zeros((size, size), np.float32)  # 0 to 1
        self.across: Floats = np.zeros((size, size), np.float32)  # -1 left rim to 1 right rim
        self.across_x: Floats = np.zeros((size, size), np.float32)  # the same, as a direction
        self.across_y: Floats = np.zeros((size, size), np.float32)
        self.along: Floats = np.zeros((size, size), np.float32)  # pixels from the strand's start
        self.tone: Floats = np.ones((size, size), np.float32)

    def add(self, path: NDArray[np.float64], half: NDArray[np.float64], tone: float = 1.0) -> None:
        """Draw a strand through path (K, 2), x before y; half (K,) is half its width there."""
        size, start = len(self.cover), 0.0
        for (x0, y0), (x1, y1), w0, w1 in zip(path, path[1:], half, half[1:], strict=False):
            step = math.hypot(x1 - x0, y1 - y0)
            margin = max(w0, w1) + 1.0
            left, right = _span(min(x0, x1) - margin, max(x0, x1) + margin, size)
            top, bottom = _span(min(y0, y1) - margin, max(y0, y1) + margin, size)
            if left < right and top < bottom and step > 0:
                window = np.s_[top:bottom, left:right]
                dx = np.arange(left, right)[None, :] - x0
                dy = np.arange(top, bottom)[:, None] - y0
                ex, ey = (x1 - x0) / step, (y1 - y0) / step
                t = np.clip(dx * ex + dy * ey, 0, step)
                off = dx * -ey + dy * ex
                gap = np.hypot(dx - t * ex, dy - t * ey)
                w = w0 + (w1 - w0) * t / step
                # How much of a one-pixel-wide window around the pixel lies within the strand.
                cover = np.clip(np.minimum(gap + 0.5, w) - np.maximum(gap - 0.5, -w), 0, 1)
                win = (cover > self.cover[window]) & (cover >= _LEAST_COVER)
                side = np.clip(off / w, -1, 1)
                values = (
                    (self.cover, cover),
                    (self.across, side),
                    (self.across_x, side * -ey),
                    (self.across_y, side * ex),
                    (self.along, start + t),
                    (self.tone, np.full_like(cover, tone)),
                )
                for plane, value in values:
                    plane[window][win] = value[win]
            start += step

    def normal(self, flatness: float = 1.0) -> tuple[Floats, Floats, Floats]:
        """Surface normals of the strands taken as round rods; below 1 flattens them."""
        nx, ny = self.across_x * np.float32(flatness), self.across_y * np.float32(flatness)
        return nx, ny, np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))

    def shaded(self, colour: Floats) -> Floats:
        """The strands as (H, W, 3), of one colour (3,), lit by the lamp."""
        light = (np.float32(0.45) + np.float32(0.65) * _lambert(*self.normal(0.9))) * self.tone
        return np.asarray(light[..., None] * colour, dtype=np.float32)


def _between(easy: float, hard: float, difficulty: float) -> float:
    return easy + (hard - easy) * difficulty


def _pixels(size: int, at_320: float, *, least: float) -> float:
    return max(at_320 * size / 320, least)


def _place(rng: np.random.Generator, size: int, margin: float) -> NDArray[np.float64]:
    return rng.uniform(margin, 1 - margin, 2) * size


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    return max(math.floor(low), 0), min(math.ceil(high) + 1, size)


def _smooth_step(x: Floats) -> Floats:
    x = np.clip(x, 0, 1).astype(np.float32)
    return np.asarray(x * x * (3 - 2 * x), dtype=np.float32)


def _cut_off(cover: Floats, least: float = _LEAST_COVER) -> Floats:
    return np.where(cover >= least, cover, np.float32(0)).astype(np.float32)


def _lay(image: Floats, colour: Floats, cover: Floats) -> Floats:
    mixed = image + cover[..., None] * (np.clip(colour, 0, 1) - image)
    return np.asarray(mixed, dtype=np.float32)


def _lambert(nx: Floats, ny: Floats, nz: Floats) -> Floats:
    x, y, z = np.array(LIGHT) / np.linalg.norm(LIGHT)
    light = np.clip(nx * x + ny * y + nz * z, 0, 1)
    return np.asarray(light, dtype=np.float32)


def _shadow_step(size: int) -> float:
    return _pixels(size, 5.0, least=2.0)


def _shadow_blur(size: int) -> int:
    return math.ceil(_pixels(size, 5.0, least=3.0))


def _with_shadow(image: Floats, cover: Floats, strength: float) -> Floats:
    """Darken what something lying on the cloth hides from the lamp."""
    size = len(cover)
    step, blur = _shadow_step(size), _shadow_blur(size)
    shift = (-LIGHT[1] * step, -LIGHT[0] * step)
    cast = ndimage.gaussian_filter(cover, blur / 2.5, radius=blur)
    core = ndimage.gaussian_filter(cover, blur / 5, radius=blur)
    dark = np.maximum(cast, 0.8 * core)
    fallen = ndimage.shift(dark, shift, order=1)
    light = 1 - strength * np.clip(fallen * 1.6, 0, 1)
    return np.asarray(image * light[..., None], dtype=np.float32)


def _cloth_colour(image: Floats, cover: Floats) -> Floats:
    """The mean colour of the undamaged cloth, (3,)."""
    return np.asarray(image[cover == 0].mean(axis=0), dtype=np.float32)


def _curve(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    length: float,
    heading: float,
    bend: float,
    steps: int = 24,
) -> NDArray[np.float64]:
    """A smooth path (steps + 1, 2) with its middle at centre; bend is how far it turns, radians."""
    at = np.linspace(0, 1, steps)
    turn = rng.normal(0, 0.5, 3)
    shape = turn[0] * (2 * at - 1) + turn[1] * np.sin(2 * np.pi * at) + turn[2] * np.cos(5 * at)
    angles = heading + bend * shape
    moves = np.stack((np.cos(angles), np.sin(angles)), axis=1) * (length / steps)
    path = np.concatenate((np.zeros((1, 2)), np.cumsum(moves, axis=0)))
    return np.asarray(path - path[len(path) // 2] + centre)


def _blob(
    size: int,
    centre: NDArray[np.float64],
    radius: float,
    rng: np.random.Generator,
    roughness: float,
) -> Floats:
    """How deep each pixel lies inside an irregular patch, in pixels; negative outside."""
    axis = np.arange(size)
    dx, dy = axis[None, :] - centre[0], axis[:, None] - centre[1]
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
    ex = (dx * math.cos(turn) + dy * math.sin(turn)) / stretch
    ey = (dy * math.cos(turn) - dx * math.sin(turn)) * stretch
    angle = np.arctan2(ey, ex)
    rim = np.ones_like(angle)
    for k in range(2, 9):
        rim += roughness * rng.normal(0, 1.2 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.clip(rim, 0.55, 1.35) * radius - np.hypot(ex, ey), dtype=np.float32)


def _rim(inside: Floats, centre: NDArray[np.float64], outward: NDArray[np.float64]) -> float:
    """How far the rim of a patch is from its centre in the direction outward (x, y), in pixels."""
    far = np.arange(0.0, len(inside))
    x, y = np.rint(centre[:, None] + outward[:, None] * far).astype(int)
    within = (x >= 0) & (y >= 0) & (x < len(inside)) & (y < len(inside))
    outside = np.flatnonzero(inside[y[within], x[within]] < 0)
    return float(outside[0]) if len(outside) else float(within.sum())
