"""Large images with small defects: native size against 256x256, and the memory that scoring takes.

    python benchmarks/large.py [--height 3072] [--width 4096] [--defect 12] [--train 6] [--test 10]
                               [--tile 2048] [--json FILE]
    python benchmarks/large.py --quick

The images are generated: a mottled surface with grain, and on the defective ones a single spot of
`--defect` pixels across, a little darker. Each model is trained on the same few good images, so
that its threshold promises little; what counts here is the ranking. Memory is the peak of a fresh
process that loads the model and scores files, imports included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sidebyside import markdown, report

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.layouts import open_dataset
from cflow_ad.evaluation.evaluate import evaluate


def surface(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A good surface, shape `(H, W, 3)`, 0 to 255: coarse and fine mottling, and grain."""
    height, width = shape
    total = np.full(shape, 128, np.float32)
    for cell, strength in ((256, 12), (32, 8), (8, 6)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
        total += strength * np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
    total += 4 * rng.standard_normal(shape, np.float32)
    return total[..., None] * np.array([1.0, 0.95, 0.85], np.float32)


def write_set(folder: Path, options: argparse.Namespace) -> Path:
    """Good images to train on, good and defective ones to test on, in the MVTec layout."""
    shape = (options.height, options.width)
    for number in range(options.train + 2 * options.test):
        rng = np.random.default_rng(number)
        image = surface(rng, shape)
        name = f"{number:03d}.png"
        place = folder / ("train" if number < options.train else "test") / "good" / name
        if number >= options.train + options.test:
            place = folder / "test" / "spot" / name
            mask = _spot(rng, shape, options.defect)
            image *= (1 - 0.45 * mask)[..., None]
            truth = folder / "ground_truth" / "spot" / f"{number:03d}_mask.png"
            _save(truth, np.where(mask > 0.5, 255, 0))
        _save(place, image)
    return folder


def _spot(rng: np.random.Generator, shape: tuple[int, int], across: int) -> NDArray[np.float32]:
    row, column = (rng.uniform(across, side - across) for side in shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.sqrt(np.float32(y - row) ** 2 + np.float32(x - column) ** 2)
    return np.clip(across / 2 + 0.5 - distance, 0, 1).astype(np.float32)


def _save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))
    image.save(path, compress_level=1)


def train(data: Path, size: str, options: argparse.Namespace, model: Path) -> float:
    """Train at a size; the seconds it took."""
    quick: dict[str, Any] = {"blocks": 1, "steps": 5} if options.quick else {}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(data, Settings(size=size, **quick))
    seconds = time.perf_counter() - began
    detector.save(model)
    return seconds


def quality(data: Path, model: Path, tile: str) -> dict[str, Any]:
    """Measure on the test images."""
    began = time.perf_counter()
    detector = Detector.load(model).optimize(tile=tile)
    result = evaluate(detector, open_dataset(data))
    assert result.pixel is not None
    return {
        "size": detector.settings.size,
        "tile": tile or "chosen",
        "image AUROC": 100 * result.image.auroc,
        "pixel AUROC": 100 * result.pixel.auroc,
        "AUPRO": 100 * result.pixel.aupro,
        "evaluate s": time.perf_counter() - began,
    }


def score(model: str, tile: str, out: str, images: list[str]) -> dict[str, Any]:
    """Score files in this process, which is a fresh one, and keep the last one's map."""
    loaded = _peak()
    detector = Detector.load(model, device="cpu")
    if tile:
        detector.optimize(tile=tile)
    began = time.perf_counter()
    for prediction in detector.stream(images):
        anomaly_map = prediction.anomaly_map
    seconds = (time.perf_counter() - began) / len(images)
    peak = _peak()
    np.save(out, anomaly_map)
    return {"imports MiB": loaded, "peak MiB": peak, "s an image": seconds}


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says begins with the peak of the parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(*arguments: object) -> dict[str, Any]:
    """`score` in a process of its own."""
    command = [sys.executable, __file__, "--score", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print two tables."""
    if sys.argv[1:2] == ["--score"]:
        model, tile, out, *images = sys.argv[2:]
        print(json.dumps(score(model, tile, out, images)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=3072)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--defect", type=int, default=12, help="pixels across")
    parser.add_argument("--train", type=int, default=6)
    parser.add_argument("--test", type=int, default=10, help="images of either kind")
    parser.add_argument("--tile", default="2048")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.train, options.test = 96, 1120, 4, 1
        options.tile = "1056"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_set(folder / "data", options)
        models = {size: folder / f"{size}.safetensors" for size in ("256x256", "native")}
        for size, model in models.items():
            print(f"trained at {size} in {train(data, size, options, model):.1f} s", flush=True)
        rows = [
            quality(data, models[size], tile)
            for size, tile in (("256x256", ""), ("native", ""), ("native", options.tile))
        ]
        print(f"\n{options.height}x{options.width}, defects of {options.defect} pixels\n")
        print(markdown(list(rows[0]), [list(row.values()) for row in rows]), flush=True)

        image = min((data / "test" / "spot").iterdir())
        maps, memory = {}, []
        for tile, said, images in (
            ("0", "none", 1),
            ("", "chosen", 1),
            ("", "chosen", 4),
            (options.tile, options.tile, 1),
        ):
            out = folder / f"map-{said}.npy"
            found = in_a_process(models["native"], tile, out, *[image] * images)
            maps[said] = np.load(out)
            change = float(np.abs(maps[said] - maps["none"]).max())
            memory.append({"tile": said, "images": images, **found, "map changes by": change})
        print("\nnative, from files to maps, in a process of its own\n")
        print(markdown(list(memory[0]), [list(row.values()) for row in memory]), flush=True)
    report({"quality": rows, "memory": memory}, options.json)


if __name__ == "__main__":
    main()
