"""Scoring speed: the product beside its encoder alone, FrEIA's decoders and anomalib.

    python benchmarks/scoring.py [--backbones NAME ...] [--sizes 256 512] [--compile]
                                 [--anomalib PYTHON] [--rounds 15] [--seconds S] [--json FILE]
    python benchmarks/scoring.py --quick

Random weights where none are at hand: speed does not care. `encoder` is the network as timm gives
it, `encoder, folded` without its batch normalisations, `encoder, compiled` by `torch.compile` (that
takes a minute for each shape). `stream` is what `predict` does, without files: an image to a core.
`--anomalib` names the Python of an environment that has anomalib 2; its model runs there, in the
same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch
from freia_loop import FreiaLoop
from sidebyside import markdown, race, ratio, report, tuned

from cflow_ad import Settings
from cflow_ad.cflow.encoder import Encoder, encoder_of
from cflow_ad.cflow.folding import fold_encoder
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.place_means import PlaceMeans
from cflow_ad.cflow.running import run_over
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.cflow.whitening import InputLayer
from cflow_ad.errors import WeightsError
from cflow_ad.fitting.likelihood import new_flow
from cflow_ad.fitting.scale import place_parts
from cflow_ad.scoring.view import View

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "resnet18", "wide_resnet50_2")


def some_encoder(settings: Settings) -> Encoder:
    """With pretrained weights if they are at hand."""
    try:
        return encoder_of(settings)
    except WeightsError:
        return encoder_of(dataclasses.replace(settings, weights="random"))


def network_of(encoder: Encoder, settings: Settings) -> CflowNetwork:
    """A whole network, its flows as they are before training."""
    levels = []
    for number, channels in enumerate(encoder.spec.channels):
        layer = InputLayer(torch.zeros(channels), torch.eye(channels))
        n = place_parts(settings, number)
        means = PlaceMeans(torch.zeros(1, n, n, channels), torch.empty(0))
        level = Level(layer, new_flow(channels, settings, number), n, means)
        levels.append(level.requires_grad_(False))
    return CflowNetwork(encoder, levels).eval()


class Anomalib:
    """anomalib's Cflow in its own environment, asked over a pipe."""

    def __init__(self, python: str, backbone: str, size: int) -> None:
        script = Path(__file__).with_name("anomalib_side.py")
        self._process = subprocess.Popen(
            [python, str(script), "score", backbone, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=tuned(),
        )

    def __call__(self, batch: int) -> None:
        """Score a batch of random images."""
        asked, answer = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answer is not None
        _say(asked, str(batch))
        if answer.readline().strip() != "done":
            raise SystemExit("anomalib's side stopped; run anomalib_side.py by hand to see why")

    def close(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()


def _say(to: IO[str], line: str) -> None:
    to.write(line + "\n")
    to.flush()


def measure(backbone: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Every candidate at every batch size, for one backbone and input size."""
    settings = Settings(backbone=backbone, blocks=2 if options.quick else Settings().blocks)
    encoder = some_encoder(settings)
    network = network_of(encoder, settings)
    folded, scorer, fast = fold_encoder(encoder), Scorer(network), Scorer(network, precision="bf16")
    fast_encoder = fold_encoder(encoder, torch.bfloat16)
    loop = FreiaLoop(some_encoder(dataclasses.replace(settings, fine=False, neighbourhood=1)))
    anomalib = Anomalib(options.anomalib, backbone, size) if options.anomalib else None
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    view = View(sizing=Settings(size=f"{size}x{size}").sizing)

    def stream(forward: Callable[[torch.Tensor], list[torch.Tensor]], count: int) -> None:
        results = run_over(
            forward,
            lambda canvas, levels: None,
            [image] * count,
            view,
            device=torch.device("cpu"),
        )
        for _ in results:
            pass

    found: dict[str, Any] = {"backbone": backbone, "size": size, "batches": {}}
    for batch in options.batches:
        pixels = torch.from_numpy(np.stack([image] * batch))
        candidates: dict[str, Callable[[], object]] = {
            "encoder": lambda pixels=pixels: encoder(pixels),
            "encoder, folded": lambda pixels=pixels: folded(pixels),
            "encoder, bf16": lambda pixels=pixels: fast_encoder(pixels),
            "cflow-ad, plain": lambda pixels=pixels: _plain(network, pixels),
            "cflow-ad": lambda pixels=pixels: scorer(pixels),
            "cflow-ad, bf16": lambda pixels=pixels: fast(pixels),
            "FrEIA loop": lambda pixels=pixels: loop.score(pixels),
        }
        if options.compile:
            torch._dynamo.reset()  # or it would have had enough after a few
            shape = (size, size)
            compiled, fast_compiled = Scorer(network), Scorer(network, precision="bf16")
            for one in (compiled, fast_compiled):
                one.compile(shape)
                if batch > 1:
                    one(pixels)
            candidates |= {
                "encoder, compiled": lambda pixels=pixels, one=compiled: one.encoder(pixels),
                "encoder, bf16, compiled": lambda pixels=pixels, o=fast_compiled: o.encoder(pixels),
                "cflow-ad, compiled": lambda pixels=pixels, one=compiled: one(pixels),
                "cflow-ad, bf16, compiled": lambda pixels=pixels, one=fast_compiled: one(pixels),
            }
            if batch > 1:
                candidates |= {
                    "encoder, compiled, stream": lambda batch=batch, one=compiled: stream(
                        one.encoder, batch
                    ),
                    "cflow-ad, compiled, stream": lambda batch=batch, one=compiled: stream(
                        one, batch
                    ),
                }
        if batch > 1:
            candidates["encoder, stream"] = lambda batch=batch: stream(folded, batch)
            candidates["cflow-ad, stream"] = lambda batch=batch: stream(scorer, batch)
            candidates["cflow-ad, bf16, stream"] = lambda batch=batch: stream(fast, batch)
        if anomalib is not None:
            candidates["anomalib"] = lambda batch=batch: anomalib(batch)
        times = race(candidates, rounds=options.rounds, seconds=options.seconds)
        best = best_of(times, "encoder")
        found["batches"][batch] = {
            "times": times,
            "best encoder": best,
            "rows": {
                name: {
                    "images/s": batch / float(np.median(seconds)),
                    "p50 ms": 1e3 * float(np.median(seconds)),
                    "p99 ms": 1e3 * float(np.quantile(seconds, 0.99)),
                    "time, encoder = 1": ratio(times, name, "encoder"),
                    "time, best encoder = 1": ratio(times, name, best),
                }
                for name, seconds in times.items()
            },
        }
    if anomalib is not None:
        anomalib.close()
    return found


def best_of(times: dict[str, list[float]], what: str, *, halved: bool = False) -> str:
    """The quickest form of the encoder, or of cflow-ad, in fp32 or in bf16."""
    forms = [name for name in times if name.startswith(what) and ("bf16" in name) == halved]
    return min(forms, key=lambda name: ratio(times, name, "encoder"))


def summary(results: list[dict[str, Any]]) -> str:
    """A line for each backbone, size and batch: each program in its best form in fp32."""
    lines = []
    for found in results:
        for batch, measured in found["batches"].items():
            times, rows = measured["times"], measured["rows"]
            encoder, own = best_of(times, "encoder"), best_of(times, "cflow-ad")
            half = best_of(times, "cflow-ad", halved=True)
            lines.append(
                [
                    found["backbone"],
                    found["size"],
                    batch,
                    rows[encoder]["images/s"],
                    rows[own]["images/s"],
                    f"{ratio(times, encoder, own):.0%}",
                    rows[half]["images/s"],
                    rows[own]["p50 ms"] / batch,
                    ratio(times, "FrEIA loop", own),
                    ratio(times, "anomalib", own) if "anomalib" in times else "",
                ]
            )
    head = ["backbone", "size", "batch", "encoder images/s", "cflow-ad images/s", "share"]
    head += ["in bf16", "ms an image", "times FrEIA loop", "times anomalib"]
    return markdown(head, lines)


@torch.inference_mode()
def _plain(network: Callable[[torch.Tensor], object], pixels: torch.Tensor) -> object:
    return network(pixels)


def main() -> None:
    """Measure, and print a table for each backbone, size and batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of a table, about")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    if options.quick:
        options.backbones, options.sizes = ["tf_efficientnet_lite0"], [64]
        options.batches, options.rounds = [1, 2], 2
    results = []
    for backbone in options.backbones:
        for size in options.sizes:
            found = measure(backbone, size, options)
            results.append(found)
            for batch, measured in found["batches"].items():
                print(f"\n{backbone}, {size}x{size}, batch {batch}\n", flush=True)
                head = ["", *next(iter(measured["rows"].values()))]
                print(markdown(head, [[n, *r.values()] for n, r in measured["rows"].items()]))
                sys.stdout.flush()
    print(f"\nin a line each\n\n{summary(results)}")
    report({"results": json.loads(json.dumps(results))}, options.json)


if __name__ == "__main__":
    main()
