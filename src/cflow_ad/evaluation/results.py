"""Write an evaluation to a folder: metrics, scores, the figure and the report."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

from cflow_ad.data.layouts import GOOD, Dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError
from cflow_ad.evaluation.evaluate import with_regions
from cflow_ad.evaluation.evaluation import Evaluation, ImageRecord
from cflow_ad.evaluation.figures import Panel, draw_panels
from cflow_ad.evaluation.overlay import map_scale
from cflow_ad.evaluation.report import write_report
from cflow_ad.files import make_folder, require_writable, write_whole
from cflow_ad.scoring.base import BaseDetector

_MOST_PANELS = 8
_METRICS = "metrics.json"


def check_results(dataset: Dataset, folder: Path, *, picture: Sequence[Path] = ()) -> None:
    """Check the folder and the images of the figure, before an evaluation starts.

    Raises:
        DataError: an image of `picture` is not a test image, or nothing can be written to the
            folder.
    """
    test = {sample.path.resolve() for sample in dataset.test}
    for path in picture:
        if path.resolve() not in test:
            raise DataError(f"{path}: not a test image of {dataset.root}; name one of those")
    require_writable(folder / _METRICS)


def write_results(
    evaluation: Evaluation,
    detector: BaseDetector,
    folder: Path,
    *,
    picture: Sequence[Path] = (),
    best_f1: bool = False,
) -> list[Path]:
    """Write all files of an evaluation.

    Args:
        evaluation: the results.
        detector: the evaluated detector, which predicts the images that are shown once more.
        folder: made if needed; files of an earlier evaluation are overwritten.
        picture: test images for the figure; unset, those with the median score of the good images
            and of each defect type.
        best_f1: draw the figure at the thresholds with the best F1 on the test images, as in the
            paper, where they are defined; else at the stored ones.

    Returns:
        The files written.

    Raises:
        DataError: as for `check_results`, or an image of `picture` was skipped.
    """
    check_results(evaluation.dataset, folder, picture=picture)
    detector = with_regions(detector, evaluation.dataset)
    shown = [_find_record(evaluation, path) for path in picture] or _choose_typical(evaluation)
    make_folder(folder)
    metrics, scores = folder / _METRICS, folder / "scores.csv"
    write_whole(metrics, evaluation.to_json())
    _write_scores(evaluation, scores)
    threshold, map_threshold = evaluation.threshold, evaluation.map_threshold
    if best_f1 and not math.isnan(evaluation.image.best_f1_threshold):
        threshold = evaluation.image.best_f1_threshold
    if best_f1 and evaluation.pixel and not math.isnan(evaluation.pixel.best_f1_threshold):
        map_threshold = evaluation.pixel.best_f1_threshold
    panels = []
    for sample in (record.sample for record in shown):
        image = detector.pixels_of(sample.path)
        truth = None if sample.mask is None else read_mask(sample.mask, (len(image), len(image[0])))
        prediction = dataclasses.replace(
            detector.predict(sample.path), threshold=threshold, map_threshold=map_threshold
        )
        panels.append(Panel(prediction, image, sample.label, truth))
    drawings = [folder / "picture.png", folder / "picture.svg"]
    scale = map_scale(evaluation.map_threshold)
    for path in drawings:
        draw_panels(panels, map_threshold=map_threshold, scale=scale, path=path)
    report = folder / "report.html"
    write_report(evaluation, detector.predict, report, pixels_of=detector.pixels_of)
    return [metrics, scores, *drawings, report]


def _write_scores(evaluation: Evaluation, path: Path) -> None:
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(["path", "label", "score", "is_anomalous", "n_regions"])
    for record in evaluation.images:
        sample = record.sample
        verdict = str(record.is_anomalous).lower()
        writer.writerow([sample.path, sample.label, record.score, verdict, record.n_regions])
    write_whole(path, rows.getvalue())


def _choose_typical(evaluation: Evaluation) -> list[ImageRecord]:
    """The image with the median score of the good ones and of each defect type."""
    chosen = []
    for label in [GOOD, *evaluation.per_defect][:_MOST_PANELS]:
        records = [record for record in evaluation.images if record.sample.label == label]
        records.sort(key=lambda record: record.score)
        chosen += records[len(records) // 2 :][:1]
    return chosen


def _find_record(evaluation: Evaluation, path: Path) -> ImageRecord:
    for record in evaluation.images:
        if record.sample.path.resolve() == path.resolve():
            return record
    raise DataError(f"{path}: could not be read, so it cannot be in the figure; name another")
