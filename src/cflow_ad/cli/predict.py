"""`cflow-ad predict`: score images; exit with 1 where any is anomalous."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import (
    COMPILE_HELP,
    DEVICE_HELP,
    PRECISION_HELP,
    ROI_HELP,
    TILE_HELP,
    UNCHECKED,
    WEIGHTS_HELP,
    bars,
    open_model,
    plain_errors,
    tell,
)
from cflow_ad.errors import DataError

SOME_ANOMALOUS = 1
SOME_UNREADABLE = 3


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("give a finite number")
    return value


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="A model file, as trained or exported.", show_default=False, readable=UNCHECKED
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders, or patterns such as 'in/*.png'."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for maps, masks and overlays."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Write the results there too: .csv, .jsonl (with regions)."),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(help="Write anomaly maps: npy (float32) or png (16 bit, thousandths)."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Write masks, 0 and 255.")] = False,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Write the images with the defects outlined.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw images, maps and outlines side by side: .png or .svg."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into sub-folders too.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Instead of the model's own.", show_default=False, callback=_finite),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once on a GPU.")] = 8,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 though images are anomalous.")
    ] = False,
    tile: Annotated[str | None, typer.Option(help=TILE_HELP)] = None,
    precision: Annotated[str | None, typer.Option(help=PRECISION_HELP)] = None,
    compiled: Annotated[bool, typer.Option("--compile", help=COMPILE_HELP)] = False,
    roi: Annotated[str | None, typer.Option(metavar="FOLDER|CSV", help=ROI_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Score images, and outline what is anomalous in them.

    Exit status: 0, no image is anomalous; 1, at least one is; 2, nothing could be done, as where
    not one image could be read; 3, some images could not be read (the others are done).
    """
    with plain_errors():
        from cflow_ad.cli.writing import Wanted, Writer
        from cflow_ad.data.listing import find_images

        paths = find_images(images, recursive=recursive)
        wanted = Wanted(
            output, table=table, maps=maps, masks=masks, overlays=overlays, picture=picture
        )
        detector = open_model(
            model,
            weights=weights,
            device=device,
            tile=tile,
            precision=precision,
            compiled=compiled,
            roi=roi,
        )
        unreadable: list[str] = []
        anomalous = 0
        predictions = detector.stream(
            paths,
            batch_size=batch_size,
            on_error=lambda _, error: unreadable.append(str(error)),
        )
        with bars() as shown, Writer(wanted, paths, say=shown.say) as writer:
            for done, prediction in enumerate(predictions, start=1):
                if threshold is not None:
                    prediction = dataclasses.replace(prediction, threshold=threshold)
                anomalous += prediction.is_anomalous
                writer.write(prediction)
                shown.show("predict", done + len(unreadable), len(paths))
        if len(unreadable) == len(paths) == 1:
            raise DataError(unreadable[0])
        for reason in unreadable:
            tell(f"skipped {reason}", "yellow")
        if len(unreadable) == len(paths):
            raise DataError(f"none of the {len(paths)} images could be used; see above")
        tell(f"anomalous: {anomalous} of {len(paths) - len(unreadable)} images")
        if unreadable:
            raise typer.Exit(SOME_UNREADABLE)
        if anomalous and not exit_zero:
            raise typer.Exit(SOME_ANOMALOUS)
