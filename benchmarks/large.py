"""Large images with small defects: accuracy at native size, and the memory that scoring takes.

    python benchmarks/large.py [--height 3072] [--width 4096] [--defect 12] [--train 6] [--test 6]
    python benchmarks/large.py --height 10000 --width 10000 --test 0
    python benchmarks/large.py --quick

The images are generated: a mottled surface with grain, and on the defective ones a single spot of
`--defect` pixels across, a little darker. Models of the default size and of native size are trained
on the same few good images, and their rankings compared; `--test 0` leaves this out. Memory is the
peak resident set of a fresh process that loads a model and scores files into maps, imports
included. The script fails where one image takes more than 2 GiB, or 4 GiB beyond 3072x4096 pixels;
up to there four in a row are measured too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import (
    QUICK,
    build_parser,
    fill_memory,
    fit,
    markdown,
    measure_alone,
    peak_memory,
    report,
)
from numpy.typing import NDArray
from PIL import Image

from cflow_ad import Detector, Settings

PATCH = (512, 512)


def draw_surface(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Draw a good surface, shape `(H, W)`, 0 to 255: coarse and fine mottling, and grain."""
    height, width = shape
    total = np.full(shape, 128, np.float32)
    for cell, strength in ((256, 12), (32, 8), (8, 6)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += strength * np.asarray(fine)
    total += 4 * rng.standard_normal(shape, np.float32)
    return total


def draw_spot(rng: np.random.Generator, shape: tuple[int, int], across: int) -> NDArray[np.float32]:
    """Draw how much of each pixel a round spot at a random place covers, shape `(H, W)`."""
    row, column = (rng.uniform(across, side - across) for side in shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.sqrt(np.float32(y - row) ** 2 + np.float32(x - column) ** 2)
    return np.clip(across / 2 + 0.5 - distance, 0, 1).astype(np.float32)


def colour(surface: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Tint a surface, shape `(H, W)` to `(H, W, 3)`."""
    channels = [np.rint((surface * tint).clip(0, 255)) for tint in (1.0, 0.95, 0.85)]
    return np.stack([channel.astype(np.uint8) for channel in channels], axis=-1)


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a PNG file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def write_set(folder: Path, options: argparse.Namespace) -> None:
    """Write good images to train on, good and defective ones to test on, in the MVTec layout."""
    shape = (options.height, options.width)
    for number in range(options.train + 2 * options.test):
        rng = np.random.default_rng(number)
        surface, name = draw_surface(rng, shape), f"{number:03d}.png"
        place = "train/good" if number < options.train else "test/good"
        if number >= options.train + options.test:
            place = "test/spot"
            spot = draw_spot(rng, shape, options.defect)
            surface *= 1 - 0.45 * spot
            mask = np.where(spot > 0.5, 255, 0).astype(np.uint8)
            write_image(folder / f"ground_truth/spot/{number:03d}_mask.png", mask)
        write_image(folder / place / name, colour(surface))


def measure_accuracy(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train on the generated set, and evaluate."""
    from cflow_ad import evaluate, open_dataset  # the fresh processes do without

    dataset = open_dataset(folder)
    detector = fit(dataset, settings)
    result = evaluate(detector, dataset)
    assert result.pixel is not None
    return {
        "size": settings.size,
        "image AUROC": 100 * result.image.auroc,
        "pixel AUROC": 100 * result.pixel.auroc,
        "AUPRO": 100 * result.pixel.aupro,
        "fit s": detector.training["seconds"],
        "evaluate s an image": result.seconds / len(result.images),
    }


def score(model: str, image: str, count: int) -> dict[str, float]:
    """Score an image several times in this process, which is a fresh one."""
    imports = peak_memory()
    detector = Detector.load(model, device="cpu")
    began = time.perf_counter()
    for prediction in detector.stream([image] * count):
        _ = prediction.mask
    seconds = (time.perf_counter() - began) / count
    return {"imports MiB": imports, "peak MiB": peak_memory(), "s an image": seconds}


def main() -> None:
    """Measure, and print two tables."""
    if sys.argv[1:2] == ["--measure"]:
        model, image, count = sys.argv[2:]
        print(json.dumps(score(model, image, int(count))))
        return
    parser = build_parser(__doc__)
    parser.add_argument("--height", type=int, default=3072)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--defect", type=int, default=12, help="pixels across")
    parser.add_argument("--train", type=int, default=6)
    parser.add_argument("--test", type=int, default=6, help="images of either kind")
    options = parser.parse_args()
    changes: dict[str, Any] = {}
    is_larger = options.height * options.width > 3072 * 4096
    sizes, counts = [Settings().size, "native"], [1] if is_larger else [1, 4]
    if options.quick:
        options.height, options.width, options.train, options.test = 96, 160, 4, 1
        changes, sizes, counts = dict(QUICK), ["native"], [1]
    bound = 4096 if is_larger else 2048
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.test:
            write_set(folder / "data", options)
            settings = [Settings.preset("default", **{**changes, "size": size}) for size in sizes]
            rows = [measure_accuracy(folder / "data", of_size) for of_size in settings]
            print(f"{options.height}x{options.width}, defects of {options.defect} pixels\n")
            print(markdown(list(rows[0]), [list(row.values()) for row in rows]), flush=True)
            results["accuracy"] = rows
        model, image = folder / "model.safetensors", folder / "image.png"
        patches = [colour(draw_surface(np.random.default_rng(i), PATCH)) for i in range(4)]
        native = Settings.preset("default", **{**changes, "size": "native", "steps": 0})
        fill_memory(fit(patches, native)).save(model)
        large = draw_surface(np.random.default_rng(0), (options.height, options.width))
        write_image(image, colour(large))
        rows = [
            {"images": count, **measure_alone(__file__, model, image, count)} for count in counts
        ]
        print("\nnative size, from files to maps, each row a process of its own\n")
        print(markdown(list(rows[0]), [list(row.values()) for row in rows]), flush=True)
        results["memory"] = rows
    report(results, options.json)
    if rows[0]["peak MiB"] > bound:
        raise SystemExit(f"the peak of one image exceeds the bound of {bound} MiB")


if __name__ == "__main__":
    main()
