"""A fleet under kills: products trained, an archive scored, and what Ray adds.

    python benchmarks/fleet.py train    [--products 40] [--images 30] [--every 10] [--engine local]
    python benchmarks/fleet.py archive  [--images 200000] [--kills 5] [--engine local]
    python benchmarks/fleet.py engines  [--seconds 300]

`train` trains generated products on two workers, and kills one of the processes every so many
seconds, each third time the first of them, whose command is then given again; each model is
compared with one trained alone. `archive` scores generated images in tar shards, killed as often,
and a tenth of them for comparison: rows, duplicates and the peak memory of all processes. `engines`
scores one archive by local workers and by Ray, for about so many seconds each. All print JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.carpet import write_carpet
from cflow_ad.fleet.manifest import read_manifest
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.training import Trainer
from cflow_ad.method import Method

CLI = [sys.executable, "-m", "cflow_ad"]
SMALL = {
    "size": "64x64",
    "strides": (8, 16),
    "steps": 20,
    "batch_size": 256,
    "folds": 2,
    "backbone": "test_efficientnet",
    "weights": "random",
}
"""Settings with which a product is trained in about a second."""
PER_SHARD = 1000
WORKERS = 2


class Run:
    """A command that goes on until it ends by itself, however often it is killed.

    Args:
        command: what to run.
        every: seconds between two kills.
        kills: the most kills; unset, any number.
    """

    def __init__(self, command: list[str], every: float, kills: int | None = None) -> None:
        self.command = command
        self.every = every
        self.left = kills
        self.killed = 0
        self.peak = 0
        self.seconds = 0.0

    def __call__(self) -> Run:
        rng, began, due = random.Random(0), time.monotonic(), time.monotonic() + self.every
        driver = self._start()
        while True:
            try:
                if driver.wait(0.2) == 0:
                    break
                driver = self._start()  # it was killed, or has something left to do
            except subprocess.TimeoutExpired:
                processes = descendants(driver.pid)
                self.peak = max(self.peak, sum(map(resident, processes)))
                if time.monotonic() > due and self.left != 0:
                    due = time.monotonic() + self.every
                    self.killed += 1
                    self.left = None if self.left is None else self.left - 1
                    workers = [each for each in processes if is_worker(each)] or [driver.pid]
                    end(driver.pid if self.killed % 3 == 0 else rng.choice(workers))
        self.seconds = time.monotonic() - began
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL)


def descendants(pid: int) -> list[int]:
    """List a process and those that it started, themselves or through others."""
    found = [pid]
    for each in found:
        try:
            tasks = list(Path(f"/proc/{each}/task").iterdir())
            children = [(task / "children").read_text().split() for task in tasks]
        except OSError:
            continue
        found += [int(child) for of_task in children for child in of_task]
    return found


def is_worker(pid: int) -> bool:
    """Whether a process does tasks: of this package, or of Ray."""
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in name or b"_Actor" in name


def resident(pid: int) -> int:
    """Bytes of memory of a process; those that it shares count in part (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def end(pid: int) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def train(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train products under kills, and compare each model with one trained alone."""
    lines = ["product,good"]
    for number in range(options.products):
        root = folder / f"p{number}"
        write_carpet(root, train=options.images, good=0, per_defect=0, size=128, seed=number)
        lines.append(f"part {number:02},{root.name}/train/good")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    command = [*CLI, "fleet", "train", str(manifest), "--store", str(folder / "store")]
    command += ["--engine", options.engine, "--workers", str(WORKERS), *as_options(SMALL)]
    run = Run(command, options.every)()
    alone = Trainer(str(folder / "alone"), threads=1, device="cpu")
    for product in read_manifest(manifest, changes=SMALL):
        alone(product)
    made, expected = (
        [(v.product, v.sha256) for v in ModelStore(folder / place).versions()]
        for place in ("store", "alone")
    )
    return {
        "products": options.products,
        "models": len(made),
        "bit_identical": len(set(made) & set(expected)),
        "kills": run.killed,
        "seconds": round(run.seconds, 1),
    }


def as_options(settings: dict[str, Any]) -> list[str]:
    """Write settings as options of a command."""
    texts = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in settings.items()}
    return [part for name, text in texts.items() for part in ("--set", f"{name}={text}")]


def write_archive(folder: Path, images: int) -> Path:
    """Write tar shards of small images, 64 of which are different."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(64):
        pixels = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=80)
        files.append(data.getvalue())
    folder.mkdir()
    for first in range(0, images, PER_SHARD):
        with tarfile.open(folder / f"{first // PER_SHARD:05}.tar", "w") as tar:
            for number in range(first, min(images, first + PER_SHARD)):
                member = tarfile.TarInfo(f"{number:09}.jpg")
                content = files[number % len(files)]
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def write_model(folder: Path) -> Path:
    """Train a model that scores small images cheaply."""
    write_carpet(folder / "carpet", train=12, good=0, per_defect=0, size=64)
    settings = Settings(
        size="32x32",
        strides=(8,),
        steps=10,
        batch_size=64,
        backbone="test_efficientnet",
        weights="random",
        method=Method(blocks=1, average=()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(folder / "carpet", settings, device="cpu")
    detector.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def score(folder: Path, archive: Path, model: Path, name: str, engine: str) -> list[str]:
    """Return the command that scores an archive."""
    command = [*CLI, "score", str(archive), "-m", str(model), "-o", str(folder / name)]
    return [*command, "--engine", engine, "--workers", str(WORKERS)]


def archive(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Score an archive under kills, and a tenth of it."""
    import pyarrow.parquet as pq

    model = write_model(folder)
    found: dict[str, Any] = {}
    for name, images in (("tenth", options.images // 10), ("whole", options.images)):
        shards = write_archive(folder / name, images)
        command = score(folder, shards, model, f"{name} scores", options.engine)
        run = Run(command, options.every, options.kills)()
        rows = pq.read_table(folder / f"{name} scores", columns=["image"]).column("image")
        found[name] = {
            "images": images,
            "rows": len(rows),
            "different": len(rows.unique()),
            "kills": run.killed,
            "peak_mib": round(run.peak / 2**20),
            "seconds": round(run.seconds, 1),
        }
    found["peak_ratio"] = round(found["whole"]["peak_mib"] / found["tenth"]["peak_mib"], 3)
    return found


def timed(command: list[str]) -> float:
    """Run a command, and return its seconds."""
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def engines(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Score one archive by local workers and by Ray."""
    model = write_model(folder)
    trial = write_archive(folder / "trial", 4 * PER_SHARD)
    command = score(folder, trial, model, "trial scores", "local")
    first, again = timed(command), timed(command)  # where all is scored, there is but the start
    shards = write_archive(
        folder / "shards", int(4 * PER_SHARD / (first - again) * options.seconds)
    )
    seconds = {
        engine: timed(score(folder, shards, model, engine, engine)) for engine in ("local", "ray")
    }
    names = sorted(path.name for path in (folder / "local").glob("*.parquet"))
    same = [
        (folder / "local" / name).read_bytes() == (folder / "ray" / name).read_bytes()
        for name in names
    ]
    return {
        "local_seconds": round(seconds["local"], 1),
        "ray_seconds": round(seconds["ray"], 1),
        "ray_adds": round(seconds["ray"] / seconds["local"] - 1, 3),
        "same_bytes": f"{sum(same)} of {len(names)} files",
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "archive", "engines"))
    parser.add_argument("--products", type=int, default=40)
    parser.add_argument("--images", type=int)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    options = parser.parse_args()
    options.images = options.images or {"train": 30}.get(options.what, 200_000)
    with tempfile.TemporaryDirectory() as folder:
        found = {"train": train, "archive": archive, "engines": engines}[options.what](
            options, Path(folder)
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
