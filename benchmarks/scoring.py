"""Scoring speed: cflow-ad beside its encoder alone, FrEIA's decoders and anomalib.

    python benchmarks/scoring.py [--backbones NAME ...] [--sizes 256 384] [--batches 1 8]
                                 [--anomalib PYTHON] [--rounds 15] [--seconds S]
    python benchmarks/scoring.py --quick

Weights are random and flows untrained, since speed does not depend on them. `cflow-ad` is the
network alone, from a batch of pixels to energies; `stream` is what `Detector.stream` does, from
arrays to scores, without or with anomaly maps. FrEIA's decoders are the paper's flow, fed 256
vectors at a time; `the paper's flow` is the same in cflow-ad. `--anomalib` names the Python of an
environment that has anomalib 2: its model runs there, in the same rounds.
"""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch
from common import (
    QUICK,
    Times,
    build_parser,
    fill_memory,
    fit,
    markdown,
    race,
    ratio,
    report,
    tuned_environment,
)
from freia_loop import FreiaLoop

from cflow_ad import Settings
from cflow_ad.cflow.building import build_encoder
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.scorer import Scorer

BACKBONES = ("tf_efficientnet_lite0", "resnet18", "wide_resnet50_2")
PAPER_LEVELS = {"join": False, "average": ()}
PAPER_FLOW = {"blocks": 8, "wide_subnets": True, "permutation": "soft"}


class Anomalib:
    """anomalib's Cflow in its own environment, called over a pipe."""

    def __init__(self, python: str, backbone: str) -> None:
        script = Path(__file__).with_name("anomalib_side.py")
        self._process = subprocess.Popen(
            [python, str(script), "score", backbone],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=tuned_environment(),
        )

    def __call__(self, size: int, batch: int) -> None:
        """Score a batch of random images."""
        request, answer = self._process.stdin, self._process.stdout
        assert request is not None
        assert answer is not None
        print(size, batch, file=request, flush=True)
        if answer.readline().strip() != "done":
            raise SystemExit("anomalib stopped; run anomalib_side.py by hand to see why")

    def close(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()


class Candidates:
    """The programs under comparison, for one backbone."""

    def __init__(self, anomalib: Anomalib | None, changes: dict[str, Any]) -> None:
        given = {"weights": "random", **changes, "size": "native", "steps": 0}
        own = given.pop("method", {})

        def build(**method: Any) -> Settings:
            return Settings.preset("default", **given, method={**own, **method})

        images = [draw_noise(64, seed) for seed in (0, 1)]
        self.detector = fill_memory(fit(images, build()))
        paper = fill_memory(fit(images, build(**PAPER_LEVELS, **PAPER_FLOW)))
        self.paper = Scorer(paper.model)
        self.loop = FreiaLoop(build_encoder(build(**PAPER_LEVELS)))
        self.anomalib = anomalib
        model = self.detector.model
        self.encoder, self.folded = model.encoder, FoldedEncoder(model.encoder)
        self.scorer, self.in_bf16 = Scorer(model), Scorer(model, precision="bf16")

    def of_batch(self, size: int, batch: int) -> dict[str, Callable[[], object]]:
        """List what is timed at an input size and a batch size."""
        images = [draw_noise(size, 0)] * batch
        pixels = torch.from_numpy(np.stack(images))

        def stream(*, maps: bool) -> None:
            for _ in self.detector.stream(images, maps=maps):
                pass

        candidates: dict[str, Callable[[], object]] = {
            "encoder": lambda: self.encoder(pixels),
            "encoder, folded": lambda: self.folded(pixels),
            "cflow-ad": lambda: self.scorer(pixels),
            "cflow-ad, bf16": lambda: self.in_bf16(pixels),
            "cflow-ad, the paper's flow": lambda: self.paper(pixels),
            "cflow-ad, stream": lambda: stream(maps=False),
            "cflow-ad, stream with maps": lambda: stream(maps=True),
            "FrEIA's decoders": lambda: self.loop.score(pixels),
        }
        if (anomalib := self.anomalib) is not None:
            candidates["anomalib"] = lambda: anomalib(size, batch)
        return candidates


def draw_noise(size: int, seed: int) -> np.ndarray:
    """Draw an image of noise, shape `(size, size, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def summarise(times: Times, batch: int) -> dict[str, dict[str, float]]:
    """Compute the rows of a table."""
    return {
        name: {
            "images/s": batch / float(np.median(seconds)),
            "p50 ms": 1e3 * float(np.median(seconds)),
            "p99 ms": 1e3 * float(np.quantile(seconds, 0.99)),
            "time, encoder = 1": ratio(times, name, "encoder"),
            "time, cflow-ad = 1": ratio(times, name, "cflow-ad"),
        }
        for name, seconds in times.items()
    }


def main() -> None:
    """Measure, and print a table for each backbone, size and batch."""
    parser = build_parser(__doc__)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 384])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of a table, about")
    parser.add_argument("--anomalib", metavar="PYTHON")
    options = parser.parse_args()
    changes: dict[str, Any] = {}
    if options.quick:
        changes = dict(QUICK)
        options.backbones, options.sizes = [changes["backbone"]], [64]
        options.batches, options.rounds = [2], 1
    results = []
    for backbone in options.backbones:
        anomalib = Anomalib(options.anomalib, backbone) if options.anomalib else None
        candidates = Candidates(anomalib, {**changes, "backbone": backbone})
        for size, batch in itertools.product(options.sizes, options.batches):
            programs = candidates.of_batch(size, batch)
            times = race(programs, rounds=options.rounds, seconds=options.seconds)
            rows = summarise(times, batch)
            results.append({"backbone": backbone, "size": size, "batch": batch, "rows": rows})
            print(f"\n{backbone}, {size}x{size}, batch {batch}\n")
            lines = [[name, *row.values()] for name, row in rows.items()]
            print(markdown(["", *rows["encoder"]], lines), flush=True)
        if anomalib is not None:
            anomalib.close()
    report(results, options.json)


if __name__ == "__main__":
    main()
