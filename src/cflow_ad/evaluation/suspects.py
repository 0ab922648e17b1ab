"""The outliers among the good images, as a page to check and a list to exclude."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.data.images import as_image
from cflow_ad.errors import DataError
from cflow_ad.evaluation._examples import Example
from cflow_ad.evaluation._pages import Picture, render
from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.overlay import heatmap, map_scale, shrink_image, shrink_map
from cflow_ad.files import write_whole, writing
from cflow_ad.fitting.screening import Screening, Suspect

_LONGEST = 288
"""Pixels of a picture's longer side."""


def list_beside(page: Path) -> Path:
    """The path of the list that belongs to a page."""
    return page.with_suffix(".csv")


def write_suspects(screening: Screening, path: Path) -> None:
    """Write the page, and beside it the list of the outliers.

    The list, with the page's name and the suffix `.csv`, has the columns `path` and `score`. A
    person deletes from it what is good after all, and passes it to `train --exclude`.

    Raises:
        DataError: a file cannot be written.
    """
    limit, suspects = screening.limit, screening.suspects
    scale = map_scale(limit)
    outliers = [_example(s, scale) for s in suspects if s.is_outlier]
    others = [_example(s, scale) for s in suspects if not s.is_outlier]
    more = len(screening.flagged) - len(outliers)
    groups = [
        ("Outliers", f"{more} more are on the list." if more else "", outliers),
        ("Highest scores below the limit", "", others),
    ]
    page = render(
        "suspects.html.j2",
        {
            "verdict": screening.verdict,
            "limit": number(limit) if math.isfinite(limit) else "",
            "median": number(float(np.median(screening.scores))) if math.isfinite(limit) else "",
            "groups": [group for group in groups if group[-1]],
            "n_flagged": len(screening.flagged),
            "list_name": list_beside(path).name,
            "version": __version__,
            "written": "",
        },
    )
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("path", "score"))
    writer.writerows(screening.flagged.items())
    with writing("report", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in ((path, page), (list_beside(path), rows.getvalue())):
            write_whole(file, text.encode(errors="replace"))


def _example(suspect: Suspect, scale: tuple[float, float]) -> Example:
    name = suspect.name
    pictures: tuple[Picture, ...] = ()
    problem = ""
    try:
        image = shrink_image(as_image(suspect.source), _LONGEST)
        colours = heatmap(shrink_map(suspect.compute_map(), _LONGEST), scale)
        pictures = (
            Picture.of(image, "image", f"the image {name}"),
            Picture.of(colours, "anomaly map", f"the anomaly map of {name}"),
        )
    except DataError as error:
        problem = str(error)
    return Example(
        name=name,
        label="good",
        score=number(suspect.score),
        outcome="outlier" if suspect.is_outlier else "below the limit",
        is_wrong=suspect.is_outlier,
        pictures=pictures,
        problem=problem,
    )
