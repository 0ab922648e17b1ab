"""The golden images: generated, of several sizes and kinds, some of them torn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

MODEL = Path(__file__).with_name("model.safetensors")
"""Trained on `good_images`, with the backbone's weights inside; `python -m tests.golden.make`."""

_SCORES = Path(__file__).with_name("scores.json")


def good_images(n: int, seed: int = 0) -> list[np.ndarray]:
    """Stripes of one width, a little turned, lit and grained; 64 x 64, uint8, RGB."""
    rng = np.random.default_rng(seed)
    return [_stripes(rng, 64, 64) for _ in range(n)]


def golden_images() -> dict[str, np.ndarray]:
    """Every golden image by its name."""
    rng = np.random.default_rng(7)
    wide, tall = _stripes(rng, 40, 64), _stripes(rng, 96, 48)
    square = [_stripes(rng, 64, 64) for _ in range(8)]
    large = np.kron(_stripes(rng, 64, 64), np.ones((2, 2, 1), np.uint8))
    return {
        "good": square[0],
        "16 bit": square[1][..., 0].astype(np.uint16) * 257,
        "grey": square[2][..., 1],
        "good wide": wide,
        "good large": large,
        "hole": _torn(square[3], 20, 30, 20, 34),
        "stain": _torn(square[4], 4, 20, 40, 56, value=255),
        "corner": _torn(square[5], 48, 64, 48, 64),
        "tall hole": _torn(tall, 40, 60, 10, 30),
        "large hole": _torn(large, 30, 70, 60, 90),
        "noise": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "black": np.zeros((50, 64, 3), np.uint8),
    }


def golden_scores() -> dict[str, float]:
    """The trained model's score of each."""
    scores: dict[str, float] = json.loads(_SCORES.read_text())["scores"]
    return scores


def write_scores(scores: dict[str, float]) -> None:
    """Store the scores."""
    _SCORES.write_text(json.dumps({"scores": scores}, indent=2) + "\n")


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    turn, phase = rng.normal(0, 0.04), rng.uniform(0, 2 * np.pi)
    wave = np.sin((x + turn * y) * (2 * np.pi / 8) + phase)
    light = 120 + rng.normal(0, 4) + 50 * wave + rng.normal(0, 4, (height, width))
    return np.clip(light[..., None] * np.array([1.0, 0.9, 0.75]), 0, 255).astype(np.uint8)


def _torn(image: np.ndarray, top: int, bottom: int, left: int, right: int, value: int = 0):
    torn = image.copy()
    torn[top:bottom, left:right] = value
    return torn
