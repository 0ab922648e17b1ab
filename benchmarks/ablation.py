"""What each choice of the default is worth: one change at a time, on every data set of a folder.

    python benchmarks/ablation.py [--data ../shared/data] [--sets NAME ...] [--rows NAME ...]
                                  [--seeds 0 1 2] [--results ablation.jsonl]
    python benchmarks/ablation.py --quick

Each row is trained and evaluated as in `quality.py`, without thresholds. A cell of the table is
the difference to the default in the mean over the seeds: image AUROC / pixel AUROC / AUPRO, in
points. Each result is appended to the results file, and what is there already is not measured
again. The file has the form of that of `quality.py`, whose `--compare default ROW` marks what is
beyond the seeds' spread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import QUICK, markdown
from quality import find_sets, measure
from results import AREAS, append_result, load_results

from cflow_ad import Settings
from cflow_ad.data.carpet import write_carpet

DEFAULT = "default"
ROWS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "flows alone": {"method": {"memory": 0}},
    "2,000 vectors in the memory": {"method": {"memory": 2000}},
    "no radii of the memory": {"method": {"memory_radii": 0.0}},
    "the paper's flow": {"method": {"blocks": 8, "wide_subnets": True, "permutation": "soft"}},
    "no whitening": {"method": {"whiten": False}},
    "no means of places": {"method": {"place_means": False}},
    "one scale for all places": {"method": {"place_scales": 0.0}},
    "one stage for a level": {"method": {"join": False}},
    "all components": {"method": {"components": 1024}},
    "no averaging": {"method": {"average": ()}},
    "smoothing by 2 pixels": {"smoothing": 2.0},
    "score: the map's peak": {"method": {"image_score": "peak"}},
    "size 256x256": {"size": "256x256"},
    "600 steps for any number": {"steps": 600},
}
"""Changes of the default; a row that changes nothing is left out."""


def build_settings(row: str, base: Mapping[str, Any], seed: int) -> Settings:
    """Build the settings of a row.

    Args:
        row: one of `ROWS`.
        base: changes that all rows have in common.
        seed: of the training.
    """
    changes = ROWS[row]
    method = {**base.get("method", {}), **changes.get("method", {})}
    return Settings.preset("default", **{**base, **changes, "method": method, "seed": seed})


def mean_areas(results: Sequence[Mapping[str, Any]], row: str, name: str) -> np.ndarray:
    """Average the areas of a row on a set over its seeds; NaN where there are none."""
    key = {"label": row, "set": name}
    found = [[r[area] for area in AREAS] for r in results if key.items() <= r.items()]
    return np.mean(found, axis=0) if found else np.full(len(AREAS), np.nan)


def build_table(
    results: Sequence[Mapping[str, Any]], rows: Sequence[str], names: Sequence[str]
) -> str:
    """Format the default's areas, and the differences to them of each row, by set and in the mean.

    Args:
        results: of the results file.
        rows: names of rows, the default first.
        names: of the sets.
    """
    of_default = np.array([mean_areas(results, DEFAULT, name) for name in names])
    lines = []
    for row in rows:
        areas = np.array([mean_areas(results, row, name) for name in names])
        values, form = (areas, ".1f") if row == DEFAULT else (areas - of_default, "+.1f")
        known = np.ma.masked_invalid(values)
        everything = [*known, known.mean(axis=0)]
        cells = [
            " / ".join(f"{v:{form}}" if v is not np.ma.masked else "-" for v in of_set)
            for of_set in everything
        ]
        lines.append([row, *cells])
    return markdown(["", *names, "mean"], lines)


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", metavar="NAME")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("ablation.jsonl"))
    parser.add_argument("--quick", action="store_true", help="a small case, as in the tests")
    options = parser.parse_args()
    base: dict[str, Any] = {"folds": 0}  # thresholds are not shown, and do not change the model
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.data, options.seeds, base = Path(folder), [0], {**base, **QUICK}
            options.rows = [DEFAULT, "the paper's flow"]
            write_carpet(options.data / "carpet", train=4, good=2, per_defect=1, size=64)
        sets = find_sets(options.data)
        names = options.sets or list(sets)
        if not names or set(names) - set(sets):
            parser.error(f"{options.data} has the sets {', '.join(sets) or '(none)'}")
        unchanged = build_settings(DEFAULT, base, 0)
        changed = [row for row in options.rows if build_settings(row, base, 0) != unchanged]
        rows = [DEFAULT, *changed]
        results = load_results(options.results)
        for seed in options.seeds:
            for row in rows:
                for name in names:
                    key = {"label": row, "set": name, "seed": seed}
                    if any(key.items() <= result.items() for result in results):
                        continue
                    settings = build_settings(row, base, seed)
                    result = {**key, **measure(sets[name], settings)}
                    append_result(options.results, result)
                    results.append(result)
    print(build_table(results, rows, names))
    print(f"\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
