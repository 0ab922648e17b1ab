"""Is a Cflow model of anomalib the same model once it is imported?

    python -m venv /tmp/anomalib && /tmp/anomalib/bin/pip install 'anomalib==2.7.*'
    python benchmarks/anomalib_parity.py /tmp/anomalib/bin/python [--backbone resnet18] [--soft]

In its own environment anomalib trains a Cflow model on a small carpet for a few steps, with its own
Engine, and keeps the checkpoint and the log-likelihoods that its network computes. The backbone's
weights are random, since only equality matters. Then the checkpoint is imported, and the
log-likelihoods per dimension are compared, level by level: for images of the network's size, and
for larger ones, which the two programs resize on their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from common import markdown

from cflow_ad.data.carpet import write_carpet
from cflow_ad.importers.anomalib import import_anomalib

SIDE = 256
"""Pixels along the sides of anomalib's input."""

LARGER = 320


def compare(work: Path) -> list[list[object]]:
    """Compare anomalib's log-likelihoods with those of the imported model; rows of a table."""
    detector = import_anomalib(work / "model.ckpt", device="cpu")
    images = json.loads((work / "images.json").read_text())
    theirs = np.load(work / "likelihoods.npz")
    rows: list[list[object]] = []
    for side in (SIDE, LARGER):
        keys = [key for key in images if key.startswith(f"{side}-")]
        ours = [detector.log_likelihoods(images[key]) for key in keys]
        for level, stride in enumerate(detector.settings.strides):
            expected = np.stack([theirs[f"{key}/{level}"] for key in keys])
            difference = np.abs(expected - np.stack([maps[level] for maps in ours]))
            limits = f"{expected.min():.3f} to {expected.max():.3f}"
            differences = [f"{difference.max():.1e}", f"{difference.mean():.1e}"]
            rows.append([f"{len(keys)} of {side}x{side}", stride, limits, *differences])
    return rows


def main() -> None:
    """Train with anomalib, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="of the environment that has anomalib 2")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--soft", action="store_true", help="rotations between blocks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_carpet(work / str(SIDE), train=8, good=2, per_defect=1, size=SIDE)
        write_carpet(work / str(LARGER), train=0, good=2, per_defect=1, size=LARGER)
        script = str(Path(__file__).with_name("anomalib_side.py"))
        kind = "soft" if options.soft else "index"
        command = [options.python, script, "likelihoods", options.backbone, str(SIDE), name, kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = compare(work)
    print(f"{options.backbone}, permutation {kind}\n")
    head = ["images", "stride", "range of anomalib's", "largest difference", "mean"]
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
