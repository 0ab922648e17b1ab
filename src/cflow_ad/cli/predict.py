"""`cflow-ad predict`: score images; exit with 1 where any is anomalous."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import open_model, plain_errors, print_message
from cflow_ad.cli.options import (
    BatchSize,
    BayerPattern,
    Bits,
    Device,
    ModelFile,
    Page,
    Precision,
    Roi,
    Weights,
)
from cflow_ad.errors import DataError

if TYPE_CHECKING:
    from cflow_ad.scoring.prediction import Prediction

SOME_ANOMALOUS = 1
SOME_UNREADABLE = 3


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("give a finite number")
    return value


def predict(
    model: ModelFile,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders (with their sub-folders), or patterns such as 'in/*.png'."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for maps, masks and overlays.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write the results to a file: .csv, or .jsonl with regions.")
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(help="Write anomaly maps: npy (float32) or png (16 bit, thousandths)."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Write masks: 255 is anomalous.")] = False,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Write the images with the defects outlined.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw the first twelve images, maps and outlines: .png or .svg."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Threshold of the image's score, in place of the model's own.",
            show_default=False,
            callback=_finite,
        ),
    ] = None,
    batch_size: BatchSize = 32,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 even if images are anomalous.")
    ] = False,
    precision: Precision = None,
    roi: Roi = None,
    bits: Bits = None,
    page: Page = None,
    bayer: BayerPattern = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Score images, and outline anomalous regions.

    Exit status: 0, no image is anomalous; 1, at least one is; 2, an error, or no image could be
    read; 3, some images could not be read (the others are done).
    """
    with plain_errors():
        from cflow_ad.cli.writing import Wanted, Writer
        from cflow_ad.data.listing import common_folder, find_images
        from cflow_ad.data.unfinished import wait_for_writers

        paths = find_images(images)
        wanted = Wanted(
            output, table=table, maps=maps, masks=masks, overlays=overlays, picture=picture
        )
        detector = open_model(model, weights=weights, device=device, precision=precision, roi=roi)
        detector.read_as(bits=bits, page=page, bayer=bayer)  # type: ignore[arg-type]
        began = time.time()
        unreadable: dict[Path, str] = {}
        anomalous = 0

        def attempt(some: list[Path]) -> Iterator[Prediction]:
            return detector.stream(
                some,
                maps=wanted.needs_maps,
                batch_size=batch_size,
                on_error=lambda source, error: unreadable.update({Path(str(source)): str(error)}),
            )

        def predict_all() -> Iterator[Prediction]:
            yield from attempt(paths)
            if again := wait_for_writers(unreadable, began):
                for path in again:
                    del unreadable[path]
                yield from attempt(again)

        _ = detector.calibration  # without which no file is to be begun
        root = common_folder(images)
        with (
            bars() as shown,
            Writer(wanted, paths, root, pixels_of=detector.pixels_of, say=shown.say) as writer,
        ):
            for done, prediction in enumerate(predict_all(), start=1):
                if threshold is not None:
                    prediction = dataclasses.replace(prediction, threshold=threshold)
                anomalous += prediction.is_anomalous
                writer.write(prediction)
                shown.show("predict", done + len(unreadable), len(paths))
        if len(unreadable) == len(paths) == 1:
            raise DataError(*unreadable.values())
        for path in filter(unreadable.__contains__, paths):
            print_message(f"skipped {unreadable[path]}", "yellow")
        if len(unreadable) == len(paths):
            raise DataError(f"none of the {len(paths)} images could be used; see above")
        print_message(f"anomalous: {anomalous} of {len(paths) - len(unreadable)} images")
        if unreadable:
            raise typer.Exit(SOME_UNREADABLE)
        if anomalous and not exit_zero:
            raise typer.Exit(SOME_ANOMALOUS)
