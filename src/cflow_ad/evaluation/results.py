"""Write an evaluation to a folder: numbers, a row per image, the picture, the report."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_ad.data.images import read_image
from cflow_ad.data.layouts import GOOD, Dataset, Sample
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError
from cflow_ad.evaluation.evaluate import Evaluation, ImageRecord, looking_at
from cflow_ad.evaluation.figures import Panel, draw_panels
from cflow_ad.evaluation.overlay import map_scale
from cflow_ad.evaluation.report import write_report

if TYPE_CHECKING:
    from cflow_ad import runtime
    from cflow_ad.detector import Detector

_MOST_IN_PICTURE = 8


def check_results(dataset: Dataset, folder: Path, *, picture: Sequence[Path] = ()) -> None:
    """Make the folder and look for the images of the picture, before the work of an evaluation.

    Raises:
        DataError: an image of `picture` is not a test image, or the folder cannot be made.
    """
    test = {sample.path.resolve() for sample in dataset.test}
    for path in picture:
        if path.resolve() not in test:
            raise DataError(f"{path}: not a test image of {dataset.root}; name one of those")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be made ({error.strerror})") from error


def write_results(
    evaluation: Evaluation,
    detector: Detector | runtime.Detector,
    folder: Path,
    *,
    picture: Sequence[Path] = (),
) -> list[Path]:
    """Write everything.

    Args:
        evaluation: what was measured.
        detector: that was measured; it is asked again for the images that are shown.
        folder: made if it is not there; files of an earlier evaluation are overwritten.
        picture: test images for the picture; unset, the most ordinary good image and the most
            ordinary of each defect type.

    Returns:
        The files written.

    Raises:
        DataError: as for `check_results`, or an image of `picture` was skipped.
    """
    check_results(evaluation.dataset, folder, picture=picture)
    detector = looking_at(detector, evaluation.dataset)
    shown = [_record(evaluation, path) for path in picture] or typical_records(evaluation)
    metrics, scores = folder / "metrics.json", folder / "scores.csv"
    metrics.write_text(evaluation.to_json(), encoding="utf-8")
    _write_scores(evaluation, scores)
    panels = [make_panel(record.sample, detector) for record in shown]
    drawings = [folder / "picture.png", folder / "picture.svg"]
    for path in drawings:
        draw_panels(
            panels,
            threshold=detector.threshold,
            scale=map_scale(detector.threshold),
            path=path,
        )
    report = folder / "report.html"
    write_report(evaluation, detector.predict, report)
    return [metrics, scores, *drawings, report]


def _write_scores(evaluation: Evaluation, path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "score", "is_anomalous", "n_regions"])
        for record in evaluation.images:
            sample = record.sample
            verdict = str(record.is_anomalous).lower()
            writer.writerow([sample.path, sample.label, record.score, verdict, record.n_regions])


def make_panel(
    sample: Sample, detector: Detector | runtime.Detector, threshold: float | None = None
) -> Panel:
    """One column of the picture.

    Args:
        sample: the image.
        detector: what it says of the image is drawn.
        threshold: of the outline; unset, the detector's.

    Raises:
        DataError: the image or its mask cannot be used.
    """
    image = read_image(sample.path)
    prediction = detector.predict(sample.path)
    if threshold is not None:
        prediction = dataclasses.replace(prediction, threshold=threshold)
    shape = (image.shape[0], image.shape[1])
    return Panel(
        image=image,
        anomaly_map=prediction.anomaly_map,
        predicted_mask=prediction.mask,
        truth=None if sample.mask is None else read_mask(sample.mask, shape),
        title=sample.label,
        score=prediction.score,
    )


def typical_records(evaluation: Evaluation) -> list[ImageRecord]:
    """Of good images and of each defect type, the one whose score is the median; at most 8."""
    labels = [GOOD, *evaluation.per_defect][:_MOST_IN_PICTURE]
    of_each = (
        sorted(
            (record for record in evaluation.images if record.sample.label == label),
            key=lambda record: record.score,
        )
        for label in labels
    )
    return [records[len(records) // 2] for records in of_each if records]


def _record(evaluation: Evaluation, path: Path) -> ImageRecord:
    for record in evaluation.images:
        if record.sample.path.resolve() == path.resolve():
            return record
    raise DataError(f"{path}: could not be read, so it cannot be in the picture; name another")
