"""Results of `quality.py`, one JSON line for each training, and the tables made of them.

A result has a label (of the settings), a set, a seed, and the values of `COLUMNS`; areas, shares
and rates in percent. NaN where the set's labels or the model do not allow a value.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import markdown

COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "hit": "hit",
    "found": "found",
    "alarms": "alarms",
    "promised": "promised",
    "kept": "kept",
    "fit_seconds": "fit s",
    "image_ms": "image ms",
}
"""Of a result, and their headings."""

AREAS = ("image_auroc", "pixel_auroc", "aupro")
_COMPARED = (*AREAS, "hit", "found", "alarms")
_CHOSEN_BY = ("image_auroc", "aupro")

Result = Mapping[str, Any]


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a results file; none where it is not there yet."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def append_result(path: Path, result: Result) -> None:
    """Append a result as a line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def select(results: Sequence[Result], name: str) -> list[Result]:
    """Select the results of a label, or all of another results file, `FILE.jsonl` or
    `FILE.jsonl:LABEL`.

    Raises:
        SystemExit: there are none.
    """
    file, dot, label = name.partition(".jsonl")
    if dot:
        found: list[Result] = list(load_results(Path(file + dot)))
        label = label.removeprefix(":")
    else:
        found, label = list(results), name
    found = [result for result in found if not label or result["label"] == label]
    if not found:
        raise SystemExit(f"there are no results of {name}")
    return found


def build_table(results: Sequence[Result], label: str) -> str:
    """Format the results of one label: a row for each set, and their mean.

    Areas have the seeds' standard deviation beside them.
    """
    rows: list[list[str]] = []
    means = []
    for name in names_of(results):
        values = values_of(results, name, tuple(COLUMNS))
        means.append(_mean(values))
        spread = _spread(values)
        spread[len(AREAS) :] = 0
        rows.append([name, *map(_cell, means[-1], spread)])
    rows.append(["mean", *map(_cell, _mean(np.array(means)), np.zeros(len(COLUMNS)))])
    return markdown([label, *COLUMNS.values()], rows)


def build_comparison(first: Sequence[Result], second: Sequence[Result], head: str) -> str:
    """Format the second's differences to the first, set by set and in the mean over the sets that
    both have; `*` marks those larger than the seeds' standard deviations together.
    """
    rows = []
    differences = []
    for name in [name for name in names_of(first) if name in names_of(second)]:
        one, other = (values_of(results, name, _COMPARED) for results in (first, second))
        difference = _mean(other) - _mean(one)
        is_beyond = np.abs(difference) > np.hypot(_spread(one), _spread(other))
        is_beyond &= min(len(one), len(other)) > 1
        differences.append(difference)
        rows.append([name, *map(_signed, difference, is_beyond)])
    if not rows:
        raise SystemExit("the two have no set in common")
    rows.append(["mean", *map(_signed, _mean(np.array(differences)))])
    return markdown([head, *(COLUMNS[key] for key in _COMPARED)], rows)


def build_choice(alternatives: Mapping[str, Sequence[Result]], most_lost: float) -> str:
    """Format what each alternative gains over the first, and which is chosen.

    The gain on a set is the mean of those of image AUROC and of AUPRO, where the set has masks.
    Chosen is the one with the highest mean gain among those that lose no more than `most_lost`
    points on any set. The same is said with each set left out in turn.

    Args:
        alternatives: results by their names; those of the first are what gains are measured from.
        most_lost: in points, on the worst set.
    """
    everywhere = set.intersection(*(set(names_of(own)) for own in alternatives.values()))
    names = [name for name in names_of(next(iter(alternatives.values()))) if name in everywhere]
    if not names:
        raise SystemExit("the alternatives have no set in common")
    areas = np.array(
        [[_mean(values_of(own, n, _CHOSEN_BY)) for n in names] for own in alternatives.values()]
    )
    gains = _mean((areas - areas[0]).transpose(2, 0, 1))  # (alternatives, sets)

    def choose(kept: Sequence[int]) -> str:
        allowed = gains[:, kept].min(axis=1) >= -most_lost  # always true of the first
        best = np.where(allowed, gains[:, kept].mean(axis=1), -np.inf)
        return list(alternatives)[int(best.argmax())]

    rows = [
        [label, *map(_signed, own), _signed(own.mean()), _signed(own.min())]
        for label, own in zip(alternatives, gains, strict=True)
    ]
    every = range(len(names))
    chosen = choose(every)
    without = [choose([i for i in every if i != left_out]) for left_out in every]
    rows.append(["chosen without the set", *without, f"with all: {chosen}", ""])
    hangs_on = [name for name, other in zip(names, without, strict=True) if other != chosen]
    verdict = f"the choice hangs on {', '.join(hangs_on)}" if hangs_on else "it hangs on no set"
    return f"{markdown(['gain', *names, 'mean', 'worst'], rows)}\n\n{chosen}: {verdict}"


def names_of(results: Sequence[Result]) -> list[str]:
    """List the sets that results are of."""
    return list(dict.fromkeys(result["set"] for result in results))


def values_of(results: Sequence[Result], name: str, keys: Sequence[str]) -> np.ndarray:
    """Values of a set's results, shape `(seeds, keys)`."""
    own = [result for result in results if result["set"] == name]
    return np.array([[result.get(key, np.nan) for key in keys] for result in own], float)


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are all NaN
        mean: np.ndarray = np.nanmean(values, axis=0)
    return mean


def _spread(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.zeros(values.shape[1])
    spread: np.ndarray = np.std(values, axis=0, ddof=1)
    return spread


def _cell(mean: float, spread: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f} ± {spread:.1f}" if spread > 0 else f"{mean:.1f}"


def _signed(value: float, is_beyond: bool = False) -> str:
    return "-" if np.isnan(value) else f"{value:+.1f}" + "*" * bool(is_beyond)
