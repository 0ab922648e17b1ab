"""A drawn part that has no symmetry, on a plain ground, laid anywhere."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from cflow_ad.scoring.motion import Motion

GROUND = (200, 205, 210)


def draw_part(
    rng: np.random.Generator,
    motion: Motion | None = None,
    side: int = 256,
    *,
    hole: bool = True,
    noise: float = 3.0,
) -> np.ndarray:
    """Draw the part, `(side, side, 3)`, moved from its place by a motion."""
    fine = 3 * side
    image = Image.new("RGB", (fine, fine), GROUND)
    draw = ImageDraw.Draw(image)
    unit = fine / 256

    def scaled(*box: float) -> list[float]:
        return [value * unit for value in box]

    draw.rectangle(scaled(70, 80, 190, 180), fill=(90, 80, 70))
    draw.rectangle(scaled(70, 50, 110, 80), fill=(90, 80, 70))
    draw.ellipse(scaled(140, 100, 175, 135), fill=(40, 40, 45))
    if hole:
        draw.ellipse(scaled(78, 138, 102, 162), fill=(225, 225, 225))
    if motion is not None:
        large = Motion(3 * motion.right, 3 * motion.down, motion.degrees)
        a, b, c, d, e, f = large._coefficients((fine, fine))
        back = (a, d, -(a * c + d * f), b, e, -(b * c + e * f))
        image = image.transform(
            (fine, fine), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=GROUND
        )
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return np.clip(small + rng.normal(0, noise, small.shape), 0, 255).astype(np.uint8)


def hole_of(side: int = 256) -> np.ndarray:
    """Where the hole is, on a part in its place."""
    y, x = np.mgrid[:side, :side] * (256 / side)
    return (x - 90) ** 2 + (y - 150) ** 2 < 14**2
