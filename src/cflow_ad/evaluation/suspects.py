"""The good images that stand out from the others, as a page to look at and a list to exclude."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.data.images import as_image
from cflow_ad.errors import DataError
from cflow_ad.evaluation._examples import Picture, as_uri
from cflow_ad.evaluation._pages import render
from cflow_ad.evaluation._wording import number
from cflow_ad.evaluation.overlay import heatmap, map_scale, shrink_image, shrink_map
from cflow_ad.fitting.screening import ScreenedImages, Suspect

_LONGEST = 288  # pixels of a picture


def list_beside(page: Path) -> Path:
    """Where the list of a page's images is written."""
    return page.with_suffix(".csv")


def write_suspects(screened: ScreenedImages, path: Path) -> None:
    """Write the page, and beside it the list of the images that stand out.

    The list is a CSV with the columns `path` and `score`: a person takes off it what is good after
    all, and gives it to `train --exclude`.

    Args:
        screened: the images; those to be shown are read again.
        path: the HTML file, which is made with its folder; the list has its name and ends with
            `.csv`.

    Raises:
        DataError: a file cannot be written.
    """
    limit = screened.screening.limit
    shown = [_shown(suspect, screened) for suspect in screened.screening.suspects]
    page = render(
        "suspects.html.j2",
        {
            "verdict": screened.verdict,
            "limit": number(limit) if math.isfinite(limit) else "",
            "median": number(float(np.median(screened.screening.scores))),
            "flagged": [each for each in shown if each.stands_out],
            "others": [each for each in shown if not each.stands_out],
            "n_flagged": len(screened.flagged),
            "n_held_out": screened.flagged_held_out,
            "list_name": list_beside(path).name,
            "version": __version__,
        },
    )
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("path", "score"))
    writer.writerows(screened.flagged.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in ((path, page), (list_beside(path), rows.getvalue())):
            file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        where = error.filename or path
        raise DataError(f"{where}: the report cannot be written ({error.strerror})") from error


@dataclass(frozen=True)
class _Shown:
    name: str
    score: str
    stands_out: bool
    use: str
    pictures: tuple[Picture, ...]
    """Empty where `problem` says why."""
    problem: str = ""


def _shown(suspect: Suspect, screened: ScreenedImages) -> _Shown:
    name, source = screened.names[suspect.index], screened.sources[suspect.index]
    use = "trained on" if suspect.index < screened.trained_on else "sets the threshold"
    limit = screened.screening.limit
    pictures: tuple[Picture, ...] = ()
    problem = ""
    try:
        image = shrink_image(as_image(source), _LONGEST)
        colours = heatmap(shrink_map(suspect.anomaly_map, _LONGEST), map_scale(limit))
        most = f"its map, at most {number(suspect.score)}"
        pictures = (
            Picture(as_uri(image), "image", f"the image {name}"),
            Picture(as_uri(colours), "where it differs", most),
        )
    except DataError as error:
        problem = str(error)
    return _Shown(name, number(suspect.score), suspect.stands_out, use, pictures, problem)
