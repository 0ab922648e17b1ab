"""A GPU in four minutes: whether scores are exact there, and how fast everything is.

    python benchmarks/gpu.py [DATA] [--device cuda] [--seconds 240] [--json FILE]
    python benchmarks/gpu.py --quick

DATA is a data set in the MVTec layout; unset, a generated one of the size of MVTec's bottle. It
needs no network, and of what the package needs only torch, timm, scipy, safetensors and the core:
run it from a copy of the tree with `PYTHONPATH=src`. Without the package that has the default
backbone's weights they are random, which changes no time. Without FrEIA its rows are left out. A
part that fails is reported, and the next one runs. The exit status is 1 if a part or a check of the
scores failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
import torch
from common import QUICK, build_parser, fill_memory, fit, markdown, report

from cflow_ad import Detector, Settings, open_dataset
from cflow_ad.cflow.precision import products_in
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.cflow.weights import PACKAGED
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.images import read_image
from cflow_ad.data.layouts import Dataset
from cflow_ad.data.parallel import work_ahead
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.fitting import levels
from cflow_ad.fitting.progress import Progress
from cflow_ad.method import PaperSchedule

PASSES = PaperSchedule().epochs * PaperSchedule().passes_per_epoch
IMAGES = PaperSchedule().images_per_batch
BACKBONES = {"Lite0": "tf_efficientnet_lite0", "WideResNet-50-2": "wide_resnet50_2"}
PRECISIONS = ("fp32", "tf32", "bf16")
ALONE, ACROSS = 1e-5, 1e-4  # the largest differences of a score, relative to at least 1


class Table:
    """What is measured, row by row, each printed at once."""

    def __init__(self, seconds: float) -> None:
        self.rows: list[list[Any]] = []
        self.failed: list[str] = []
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self._end - time.perf_counter()

    def add(self, what: str, value: float, unit: str, wanted: str = "") -> None:
        """Add a row."""
        self.rows.append([what, value, unit, wanted])
        print(f"{what}: {value:.4g} {unit} {wanted and f'(wanted: {wanted})'}", flush=True)

    def check(self, what: str, value: float, most: float) -> None:
        """Add a row that must not exceed a bound."""
        self.add(what, value, "", f"at most {most:g}")
        if not value <= most:
            self.failed.append(what)

    @contextlib.contextmanager
    def part(self, name: str, *, needs: float) -> Iterator[None]:
        """Run a part if the time is enough; what fails in it is reported."""
        if self.left < needs:
            print(f"{name}: left out, {max(0, self.left):.0f} s are left", flush=True)
            return
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.failed.append(name)


class Bench:
    """The parts of the benchmark.

    Args:
        dataset: with test images.
        settings: of the model.
        device: what is measured.
        table: takes the rows.
        quick: few repetitions.
    """

    def __init__(
        self, dataset: Dataset, settings: Settings, device: torch.device, table: Table, quick: bool
    ) -> None:
        self.dataset, self.settings, self.device, self.table = dataset, settings, device, table
        self.repeats, self.seconds = (2, 0.05) if quick else (100, 0.4)
        self.images = 8 if quick else 2048
        self.quick = quick
        self.areas: dict[str, float] = {}
        self.detector = self._fit("first fit")

    def _fit(self, name: str, device: torch.device | None = None) -> Detector:
        """Fit a model, and report the seconds of each stage."""
        began = last = time.perf_counter()
        stages: dict[str, float] = {}

        def note(progress: Progress) -> None:
            nonlocal last
            now = time.perf_counter()
            stages[progress.stage] = stages.get(progress.stage, 0.0) + now - last
            last = now

        detector = fit(self.dataset, self.settings, device=device or self.device, progress=note)
        self.table.add(f"{name}, in all", time.perf_counter() - began, "s")
        for stage, seconds in stages.items():
            self.table.add(f"{name}, until the end of {stage}", seconds, "s")
        return detector

    def fit_again(self) -> None:
        """Fit when all libraries are loaded."""
        self.detector = self._fit("fit")
        self.areas = _areas(evaluate(self.detector, self.dataset))
        for name, area in self.areas.items():
            self.table.add(f"fit, {name}", area, "%")

    def share_among(self, numbers: Sequence[int]) -> None:
        """Fit with other numbers of trainings that share the GPU."""
        for number in numbers:
            with mock.patch.object(levels, "LANES", number):
                self._fit(f"fit, {number} trainings at a time")

    def compare_with_cpu(self) -> None:
        """Fit on the CPU, and compare the areas."""
        on_cpu = self._fit("fit on the CPU", torch.device("cpu"))
        for name, area in _areas(evaluate(on_cpu, self.dataset)).items():
            difference = self.areas[name] - area
            self.table.add(f"{name}, GPU less CPU", difference, "points", "within 0.1")

    def check_scores(self) -> None:
        """Compare images alone, in batches and on the CPU, and the settings of torch."""
        paths = [sample.path for sample in self.dataset.test]
        before = _torch_settings()
        for precision in PRECISIONS:
            detector = self._in(precision)
            alone = [detector.predict(path) for path in paths]
            worst = 0.0
            for size in (2, 7, 32):
                for order in (list(range(len(paths))), list(range(len(paths)))[::-1]):
                    together = list(detector.stream([paths[i] for i in order], batch_size=size))
                    pairs = [(alone[i], other) for i, other in zip(order, together, strict=True)]
                    worst = max(worst, *(_difference(one, other) for one, other in pairs))
            name = f"{precision}: alone or in any batch, largest change of a score or pixel"
            if precision == "fp32":
                self.table.check(name, worst, ALONE)
            else:
                self.table.add(name, worst, "")
        detector = self._in("fp32")
        there = list(detector.stream(paths))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            detector.save(path, bundle=True)
            here = list(Detector.load(path, device="cpu").stream(paths))
        pairs = list(zip(here, there, strict=True))
        worst = max(abs(a.score - b.score) / max(1.0, a.score) for a, b in pairs)
        self.table.check("CPU and GPU, largest change of a score", worst, ACROSS)
        flipped = sum(a.is_anomalous != b.is_anomalous for a, b in pairs)
        self.table.check("CPU and GPU, other decisions", float(flipped), 0)
        changed = float(_torch_settings() != before)
        self.table.check("settings of torch that were changed", changed, 0)

    def _in(self, precision: Any) -> Detector:
        return Detector(
            self.detector.model,
            settings=self.detector.settings,
            calibration=self.detector.calibration,
            training={},
            view=self.detector.view,
            precision=precision,
        )

    def measure_files(self) -> None:
        """Files to results, beside decoding and resizing alone."""
        paths = [sample.path for sample in (*self.dataset.train, *self.dataset.test)]
        paths = (paths * (1 + self.images // 2 // len(paths)))[: self.images]
        workers = torch.get_num_threads()

        def decode() -> None:
            view = self.detector.view
            for _ in work_ahead(paths, view.prepare, workers=workers, ahead=2 * workers):
                pass

        rates = {}
        for name, run in {
            "decoding and resizing alone": decode,
            "files to scores": lambda: _drain(self.detector.stream(paths, maps=False)),
            "files to scores, maps and regions": lambda: _drain(self.detector.stream(paths)),
        }.items():
            began = time.perf_counter()
            run()
            rates[name] = len(paths) / (time.perf_counter() - began)
            self.table.add(name, rates[name], "images/s")
        share = rates["files to scores, maps and regions"] / rates["decoding and resizing alone"]
        self.table.add("files to results, share of decoding alone", share, "", "at least 0.85")

    def measure_arrays(self) -> None:
        """Arrays of the network's size to results."""
        arrays = self._arrays(64)
        arrays = (arrays * (1 + self.images // len(arrays)))[: self.images]
        for maps in (False, True):
            for batch in (32, 128):
                _drain(self.detector.stream(arrays[: 2 * batch], maps=maps, batch_size=batch))
                began = time.perf_counter()
                _drain(self.detector.stream(arrays, maps=maps, batch_size=batch))
                rate = len(arrays) / (time.perf_counter() - began)
                what = "scores, maps and regions" if maps else "scores"
                wanted = "at least 1200" if maps else ""
                self.table.add(f"arrays to {what}, batches of {batch}", rate, "images/s", wanted)

    def measure_one(self) -> None:
        """One array at a time, as from a camera."""
        arrays = self._arrays(8)
        for maps in (False, True):
            times = []
            for number in range(10 + self.repeats):
                began = time.perf_counter()
                _drain(self.detector.stream([arrays[number % 8]], maps=maps))
                times.append(1e3 * (time.perf_counter() - began))
            what = "one array to score, map and regions" if maps else "one array to a score"
            self.table.add(f"{what}, p50", float(np.median(times[10:])), "ms", "at most 5")
            self.table.add(f"{what}, p99", float(np.quantile(times[10:], 0.99)), "ms")

    def _arrays(self, count: int) -> list[np.ndarray]:
        sizing = self.detector.settings.sizing
        samples = [*self.dataset.test, *self.dataset.train][:count]
        images = [sizing.prepare(read_image(sample.path)).pixels for sample in samples]
        return (images * count)[:count]

    def measure_shares(self, side: int, batches: Sequence[int]) -> None:
        """The encoder alone and the whole network, for each backbone, precision and batch."""
        backbones = {"quick": str(QUICK["backbone"])} if self.quick else BACKBONES
        for name, backbone in backbones.items():
            changes = dict(QUICK) if self.quick else {"backbone": backbone}
            changes |= {"weights": "random", "size": "native", "steps": 0, "folds": 0}
            noise = [_noise(side, seed) for seed in (0, 1)]
            settings = Settings.preset("default", **changes)
            model = fill_memory(fit(noise, settings, device=self.device)).model
            for precision in PRECISIONS:
                scorer = Scorer(model, precision=precision)
                for batch in batches:
                    if self.table.left < 5:
                        return
                    self._measure_share(f"{name} at {side}, {precision}", scorer, side, batch)

    def _measure_share(self, name: str, scorer: Scorer, side: int, batch: int) -> None:
        pixels = torch.from_numpy(np.stack([_noise(side, 0)] * batch)).to(self.device)
        encoder = self._rate(lambda: scorer.folded.encoder(pixels), batch)
        whole = self._rate(lambda: scorer(pixels), batch)
        self.table.add(f"{name}, batch {batch}: encoder", encoder, "images/s")
        wanted = "at least 4000" if name == "WideResNet-50-2 at 256, bf16" and batch > 1 else ""
        self.table.add(f"{name}, batch {batch}: cflow-ad", whole, "images/s", wanted)
        wanted = "at least 0.75" if batch == 128 else ""
        self.table.add(f"{name}, batch {batch}: encoder's share", whole / encoder, "", wanted)

    def _rate(self, run: Callable[[], object], batch: int) -> float:
        for _ in range(5):  # of which the last may be captured in a graph
            run()
        self._wait()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < self.seconds:
            for _ in range(3):
                run()
            self._wait()
            count += 3
        return batch * count / (time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def measure_freia(self, side: int) -> None:
        """FrEIA's decoders fed 256 vectors at a time, and a pass of the paper's schedule."""
        from freia_loop import FreiaLoop

        batch, most = (4, 1) if self.quick else (IMAGES, 40)
        model = self.detector.model
        try:
            loop = FreiaLoop(model.encoder)
        except ModuleNotFoundError:
            print("no FrEIA: its rows are left out")
            return
        pixels = torch.from_numpy(np.stack([_noise(side, 0)] * batch)).to(self.device)
        with products_in("fp32", self.device):
            peer = self._rate(lambda: loop.score(pixels), batch)
        own = self._rate(lambda: self.detector._predictor.scorer(pixels), batch)
        self.table.add(f"FrEIA's decoders at {side}, batch {batch}", peer, "images/s")
        self.table.add("cflow-ad, the same images and encoder", own, "images/s")
        self.table.add("cflow-ad over FrEIA's decoders", own / peer, "times", "at least 50")
        box = self.settings.sizing
        pixels = torch.from_numpy(np.stack([_noise(box.height, 0)] * batch)).to(self.device)
        loop.train_on(pixels, most=2)
        self._wait()
        began = time.perf_counter()
        taken, whole = loop.train_on(pixels, most=most)
        self._wait()
        seconds = (time.perf_counter() - began) * whole / taken
        a_pass = seconds * len(self.dataset.train) / batch
        self.table.add("a pass of the paper's schedule over FrEIA's decoders", a_pass, "s")
        fitted = self.detector.training["seconds"]
        ratio = PASSES * a_pass / fitted
        self.table.add(f"{PASSES} such passes, times the fit of cflow-ad", ratio, "times")


def _areas(result: Any) -> dict[str, float]:
    found = {"image AUROC": 100 * result.image.auroc}
    if result.pixel is not None:
        found |= {"pixel AUROC": 100 * result.pixel.auroc, "AUPRO": 100 * result.pixel.aupro}
    return found


def _difference(one: Any, other: Any) -> float:
    unit = max(1.0, one.score)
    of_map = float(np.abs(one.anomaly_map - other.anomaly_map).max())
    return max(abs(one.score - other.score), of_map) / unit


def _drain(predictions: Iterator[Any]) -> None:
    for prediction in predictions:
        _ = prediction.score, prediction.is_anomalous and prediction.regions


def _noise(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _torch_settings() -> list[Any]:
    """Read what a program may have set in torch."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    holders = [getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), matmul]
    return [
        *(getattr(holder, "fp32_precision", None) for holder in holders),
        cudnn.benchmark,
        cudnn.deterministic,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    ]


def _settings_for(options: argparse.Namespace) -> Settings:
    if options.quick:
        return Settings.preset("default", **QUICK)
    settings = Settings()
    packaged = PACKAGED[settings.backbone]
    if packaged.find() is None:
        print(f"no package {packaged.package}: the weights are random, and so are the areas")
        settings = dataclasses.replace(settings, weights="random")
    return settings


def main() -> int:
    """Measure, and print the table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--device", help="unset, cuda; with --quick, cpu")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit, about")
    options = parser.parse_args()
    quick = options.quick
    device = torch.device(options.device or ("cpu" if quick else "cuda"))
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device), "torch", torch.__version__, flush=True)
    table = Table(options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "carpet"
        if options.data is None:
            counts = (4, 2, 1, 64) if quick else (167, 20, 9, 900)
            train, good, defects, size = counts
            write_carpet(made, train=train, good=good, per_defect=defects, size=size)
        dataset = open_dataset(options.data or made)
        bench: Bench | None = None
        with table.part("first fit", needs=0):
            bench = Bench(dataset, _settings_for(options), device, table, quick)
        if bench is not None:
            with table.part("fit", needs=60 * (not quick)):
                bench.fit_again()
            with table.part("scores", needs=0):
                bench.check_scores()
            with table.part("one image", needs=0):
                bench.measure_one()
            with table.part("arrays", needs=10 * (not quick)):
                bench.measure_arrays()
            with table.part("files", needs=15 * (not quick)):
                bench.measure_files()
            with table.part("shares", needs=20 * (not quick)):
                bench.measure_shares(*((64, (1, 2)) if quick else (256, (1, 32, 128))))
            with table.part("FrEIA", needs=15 * (not quick)):
                bench.measure_freia(64 if quick else 256)
            with table.part("trainings at a time", needs=40 * (not quick)):
                bench.share_among([3] if quick else [3, 12])
            with table.part("comparison with a CPU's fit", needs=60 * (not quick)):
                bench.compare_with_cpu()
    if device.type == "cuda":
        table.add("most memory in use", torch.cuda.max_memory_allocated(device) / 2**30, "GiB")
    print("\n" + markdown(["", "value", "unit", "wanted"], table.rows))
    for what in table.failed:
        print(f"failed: {what}")
    report({"rows": table.rows, "failed": table.failed}, options.json)
    return 1 if table.failed else 0


if __name__ == "__main__" and (status := main()):
    sys.exit(status)
