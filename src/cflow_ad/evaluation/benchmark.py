"""Train and evaluate on the classes of MVTec AD, beside the published results.

The model after the last step is evaluated; nothing is selected on test images.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cflow_ad._version import __version__
from cflow_ad.data.layouts import check_masks, open_dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import CalibrationWarning, DataError, SettingsError
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.evaluation.published import MVTEC_CLASSES, Areas, find_published
from cflow_ad.files import replacing
from cflow_ad.fitting.progress import ProgressCallback
from cflow_ad.settings import Settings

HEADER = ["Class", "Seed"] + [
    name for area in ("Image\nAUROC", "Pixel\nAUROC", "AUPRO") for name in (area, "ref.", "paper")
]
"""Columns of the table; `ref.` is the same model scored as the paper's code does."""


def find_classes(data: Path, wanted: Sequence[str] = ()) -> dict[str, Path]:
    """Find the folder of each class that is wanted, or of all that are there.

    Raises:
        SettingsError: a name is not a class of MVTec AD.
        DataError: a class, or all of them, are missing.
    """
    if unknown := [name for name in wanted if name not in MVTEC_CLASSES]:
        known = ", ".join(MVTEC_CLASSES)
        raise SettingsError(f"{unknown[0]!r} is not a class of MVTec AD; the classes are {known}")
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder; check the path")
    found = {name: data / name for name in MVTEC_CLASSES if (data / name).is_dir()}
    if not found:
        raise DataError(
            f"{data}: there are no classes of MVTec AD; name the folder that holds bottle, cable "
            "and so on, or fetch it with `cflow-ad data download mvtec FOLDER`"
        )
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{data}: there is no {', '.join(missing)}; leave it out of --classes")
    return {name: found[name] for name in wanted or found}


def adapt_settings(name: str, settings: Settings, seed: int, *, paper_size: bool) -> Settings:
    """The settings of one run: with its seed, and perhaps the class's input size in the paper."""
    side = MVTEC_CLASSES[name].side
    size = f"{side}x{side}" if paper_size else settings.size
    return dataclasses.replace(settings, seed=seed, size=size)


def read_result(file: Path, settings: Settings) -> dict[str, Any] | None:
    """Read the result of a finished run; None where it is missing or damaged.

    Raises:
        DataError: it has other settings, or another version made it.
    """
    now = {"version": __version__, **settings.to_dict()}
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        then = {"version": result["version"], **result["settings"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if differing := [name for name in now if now[name] != then.get(name)]:
        raise DataError(
            f"{file}: measured with other settings ({', '.join(differing)}); name another folder "
            "with -o, or delete the file"
        )
    return result


def measure(
    name: str,
    data: Path,
    settings: Settings,
    file: Path,
    *,
    device: str | None = None,
    training: ProgressCallback,
    evaluating: Callable[[int, int], None],
) -> dict[str, Any]:
    """Train on a class, evaluate, and write the result to a file as JSON, areas in percent.

    Raises:
        CflowError: the class cannot be trained on or evaluated.
        OSError: the result cannot be written.
    """
    dataset = open_dataset(data)
    check_masks(dataset.require_test())  # before the training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # the rate is in the result
        detector = Detector.fit(dataset, settings, device=device, progress=training)
    evaluation = evaluate(detector, dataset, reference=True, progress=evaluating).to_dict()
    result = {
        "class": name,
        "seed": settings.seed,
        "areas": _read_areas(evaluation),
        "reference": _read_areas(evaluation["reference"]),
        "train_images": len(dataset.train),
        "train_seconds": detector.training["seconds"],
        "version": __version__,
        "settings": settings.to_dict(),
        "evaluation": evaluation,
    }
    _write(file, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def build_table(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of the table: one for each result, their mean, its deviation over the seeds."""
    rows = []
    by_seed: dict[int, list[list[float | None]]] = {}
    for result in results:
        published = find_published(result["class"], result["settings"]["backbone"])
        areas = zip(result["areas"], result["reference"], published, strict=True)
        values = [value for of_area in areas for value in of_area]
        by_seed.setdefault(result["seed"], []).append(values)
        rows.append([result["class"], str(result["seed"]), *map(_format, values)])
    if not rows:
        return []
    every = [values for of_seed in by_seed.values() for values in of_seed]
    rows.append(["mean", "", *map(_format, _over(statistics.fmean, every))])
    if len(by_seed) > 1 and len(set(map(len, by_seed.values()))) == 1:
        means = [_over(statistics.fmean, of_seed) for of_seed in by_seed.values()]
        deviations = _over(statistics.stdev, means)
        deviations[2::3] = [None] * 3  # the published ones
        rows.append(["± (seeds)", "", *map(_format, deviations)])
    return rows


def write_markdown(path: Path, rows: Sequence[Sequence[str]], failures: Sequence[str] = ()) -> None:
    """Write the table as Markdown, and below it the runs that failed, with their errors."""
    parts = []
    if rows:
        head = [name.replace("\n", " ") for name in HEADER]
        lines = [head, ["---"] * len(head), *rows]
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    if failures:
        parts.append("Failed:\n\n" + "".join(f"- {failure}\n" for failure in failures))
    _write(path, "\n".join(parts))


def _read_areas(evaluation: Mapping[str, Any]) -> Areas:
    pixel = evaluation["pixel"] or {"auroc": None, "aupro": None}
    shares = (evaluation["image"]["auroc"], pixel["auroc"], pixel["aupro"])
    return Areas(*(None if share is None else 100 * share for share in shares))


def _over(
    function: Callable[[list[float]], float], rows: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """A statistic of each column; None where a value is undefined."""
    columns = (
        [value for value in column if value is not None] for column in zip(*rows, strict=True)
    )
    return [function(column) if len(column) == len(rows) else None for column in columns]


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _write(path: Path, text: str) -> None:
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")
