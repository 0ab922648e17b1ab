"""Align a part that is shifted or turned with a reference image.

A coarse search correlates small copies at every shift, by FFT, and for `rigid` at every angle too.
Gauss-Newton steps on larger and larger copies refine the result. A motion is used only where the
aligned image correlates with the reference well, and better than the image as it is.

References:
    Evangelidis and Psarakis, Parametric image alignment using enhanced correlation coefficient
    maximization, IEEE TPAMI 2008: its measure is maximised here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import ImageSource, as_image, source_name, transform
from cflow_ad.errors import ImageError
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.motion import Motion

Floats: TypeAlias = NDArray[np.float32]

LEAST_CORRELATION = 0.5
"""An image that correlates less than this with the reference, once aligned, is left as it is."""

LEAST_SEEN = 0.5
"""The least share of the reference's frame that an aligned image must fill."""

_SIDE = 256  # the longer side of the reference, in pixels
_SIDES = (64, 128, 256)  # of the copies that a motion is refined on, coarse to fine
_STEP = 4.0  # degrees between the angles that are tried
_STILL = 0.05  # a motion of no pixel by more than this is none
_MOST_COMPARED = 32  # images among which the reference is chosen


class Reference:
    """The image that others are aligned to.

    Args:
        grey: Shape `(h, w)`, `uint8`, at most 256 pixels a side.
        turns: Whether parts are turned as well as shifted.
        number: Of the image, among those that it was chosen from; None where that is not known.
    """

    def __init__(self, grey: NDArray[np.uint8], *, turns: bool, number: int | None = None) -> None:
        self.grey = grey
        self.turns = turns
        self.number = number
        self._levels = _copies(grey.astype(np.float32))
        self._angles = np.arange(0, 360, _STEP) if turns else np.zeros(1)
        coarse = _centred(self._levels[0])
        turned = [Motion(0.0, 0.0, float(angle)).give_back(coarse) for angle in self._angles]
        self._spectra = np.fft.rfft2(np.stack(turned)).conj().astype(np.complex64)

    def is_made_from(self, image: NDArray[Any]) -> bool:
        """Whether an image, `(H, W, 3)`, 0 to 255, is the one that was chosen."""
        return np.array_equal(_shrunk(image, (self.grey.shape[0], self.grey.shape[1])), self.grey)

    def motion_of(self, image: NDArray[Any], name: str = "") -> Motion | None:
        """Find how a part lies in an image, `(H, W, 3)`, 0 to 255, which an error calls `name`.

        Returns:
            None where the image is left as it is: the part lies as in the reference, or no motion
            reaches `LEAST_CORRELATION` and `LEAST_SEEN` and correlates better than none.

        Raises:
            ImageError: The image has another aspect ratio than the reference.
        """
        height, width = self.grey.shape
        ratio = (image.shape[1] * height) / (image.shape[0] * width)
        if abs(ratio - 1) > max(0.01, 2 / min(height, width)):
            raise ImageError(
                f"{name or 'the image'}: {image.shape[0]} x {image.shape[1]} pixels (height x "
                f"width) has another aspect ratio than the images that parts are aligned to "
                f"({height} x {width}); crop it, or train with align=none",
                code="image.shape",
                name=name,
                height=image.shape[0],
                width=image.shape[1],
            )
        levels = _copies(_shrunk(image, (height, width)).astype(np.float32))
        found = self._search(levels[0])
        for number, (moving, fixed) in enumerate(zip(levels, self._levels, strict=True)):
            if number:
                grown = fixed.shape[1] / levels[number - 1].shape[1]
                found = Motion(found.right * grown, found.down * grown, found.degrees)
            found = _refine(moving, fixed, found, turns=self.turns)
        moved, seen = _correlation(levels[-1], self._levels[-1], found)
        still, _ = _correlation(levels[-1], self._levels[-1], Motion(0.0, 0.0, 0.0))
        if moved < max(LEAST_CORRELATION, still) or seen < LEAST_SEEN:
            return None
        right, down = found.right * image.shape[1] / width, found.down * image.shape[0] / height
        motion = Motion(right, down, found.degrees)
        corners = np.array([[0, 0], [image.shape[1], 0]])
        travelled = motion.of_points(corners, (image.shape[0], image.shape[1])) - corners
        return motion if np.abs(travelled).max() > _STILL else None

    def _search(self, moving: Floats) -> Motion:
        """The best of all whole shifts and all angles, on the smallest copies."""
        spectrum = np.fft.rfft2(_centred(moving)).astype(np.complex64)
        peaks = np.fft.irfft2(spectrum * self._spectra, s=moving.shape)
        angle, down, right = np.unravel_index(int(peaks.argmax()), peaks.shape)
        height, width = moving.shape
        return Motion(
            float((right + width // 2) % width - width // 2),
            float((down + height // 2) % height - height // 2),
            float(self._angles[angle]),
        )

    def to_png(self) -> bytes:
        """Return a grey PNG file, which `from_png` reads."""
        file = io.BytesIO()
        Image.fromarray(self.grey).save(file, "PNG", optimize=True)
        return file.getvalue()

    @classmethod
    def from_png(cls, data: bytes, *, turns: bool) -> Reference:
        """Read what `to_png` returned.

        Raises:
            OSError: The bytes are no image.
        """
        with Image.open(io.BytesIO(data)) as image:
            return cls(np.array(image.convert("L")), turns=turns)

    @classmethod
    def choose(cls, sources: Sequence[ImageSource], *, turns: bool) -> Reference:
        """Choose the most central of some good images: the one that differs least from the others.

        There must be at least one, and all of one aspect ratio. Of more than 32, that many are
        compared.

        Raises:
            ImageError: An image cannot be used.
        """
        index = np.unique(np.linspace(0, len(sources) - 1, _MOST_COMPARED).round().astype(int))
        some = [sources[i] for i in index]
        greys: list[NDArray[np.uint8]] = []
        for source in some:
            image = as_image(source)
            factor = min(1.0, _SIDE / max(image.shape[:2]))
            shape = (round(image.shape[0] * factor) or 1, round(image.shape[1] * factor) or 1)
            if greys and shape != greys[0].shape:
                raise ImageError(
                    f"{source_name(source) or 'an image'}: it has another aspect ratio than "
                    f"{source_name(some[0]) or 'the first'}, so that parts cannot be aligned; crop "
                    "it, or train with align=none",
                    code="image.shape",
                    name=source_name(source),
                    height=image.shape[0],
                    width=image.shape[1],
                )
            greys.append(_shrunk(image, shape))
        stack = np.stack(greys).astype(np.float32)
        apart = [float(np.abs(stack - grey).mean()) for grey in stack]
        best = int(np.argmin(apart))
        return cls(greys[best], turns=turns, number=int(index[best]))


def _shrunk(image: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """Return a grey copy, of this shape, of an image `(H, W, 3)`."""
    pixels = np.rint(image.clip(0, 255)).astype(np.uint8) if image.dtype != np.uint8 else image
    grey = Image.fromarray(pixels).convert("L")
    return np.array(grey.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _copies(grey: Floats) -> list[Floats]:
    """Return copies of an image at several sizes, the smallest first."""
    copies = []
    for side in _SIDES:
        factor = min(1.0, side / max(grey.shape))
        size = (max(8, round(grey.shape[1] * factor)), max(8, round(grey.shape[0] * factor)))
        copies.append(np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)))
    return copies


def _centred(grey: Floats) -> Floats:
    """Centre on the border's median, since an FFT wraps around, and scale to a deviation of 1."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    centred = grey - np.median(border)
    scaled: Floats = centred / max(float(centred.std()), 1e-6)
    return scaled


def _refine(moving: Floats, fixed: Floats, start: Motion, *, turns: bool) -> Motion:
    """Refine a motion by Gauss-Newton steps, to the highest correlation nearby."""
    down, right = np.gradient(moving)
    height, width = fixed.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + 0.5 - width / 2, y + 0.5 - height / 2
    found = start
    for _ in range(20):
        coefficients = found._coefficients((height, width))
        inside = found.seen((height, width))
        if inside.mean() < LEAST_SEEN:
            return start

        def brought(values: Any, of: Any = coefficients, keep: Any = inside) -> Any:
            return transform(values, values.shape, of, Image.Resampling.BILINEAR)[keep]

        cos, sin = coefficients[0], coefficients[3]
        gx, gy = brought(right), brought(down)
        u, v = x[inside], y[inside]
        slopes = [gx, gy]
        if turns:  # how a pixel changes as the part turns by one radian
            slopes.append(gx * (-sin * u - cos * v) + gy * (cos * u - sin * v))
        target, values = fixed[inside], brought(moving)
        # Brightness and contrast are fitted too, so that another exposure does not move the part.
        jacobian = np.stack([*slopes, values, np.ones_like(values)]).astype(np.float64)
        try:
            step = np.linalg.solve(
                jacobian @ jacobian.T + 1e-6 * np.eye(len(jacobian)), jacobian @ (target - values)
            )
        except np.linalg.LinAlgError:
            return start
        gain = max(1 + step[-2], 0.1)
        turn = math.degrees(step[2] / gain) if turns else 0.0
        found = Motion(
            found.right + step[0] / gain, found.down + step[1] / gain, found.degrees + turn
        )
        if max(abs(step[0]), abs(step[1])) < 0.005 and abs(turn) < 0.005:
            break
    # Far from the start the steps have diverged.
    travelled = math.hypot(found.right - start.right, found.down - start.down)
    lost = travelled > 0.15 * max(fixed.shape) or abs(found.degrees - start.degrees) > 3 * _STEP
    return start if lost or not math.isfinite(travelled) else found


def _correlation(moving: Floats, fixed: Floats, motion: Motion) -> tuple[float, float]:
    """Return Pearson's correlation where the image fills the frame, and the share it fills."""
    shape = (fixed.shape[0], fixed.shape[1])
    seen = motion.seen(shape)
    if not seen.any():
        return -1.0, 0.0
    moved = transform(moving, shape, motion._coefficients(shape), Image.Resampling.BILINEAR)[seen]
    one, other = moved - moved.mean(), fixed[seen] - fixed[seen].mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return (float(one @ other) / scale if scale > 0 else 0.0), float(seen.mean())
