"""`cflow-ad evaluate`: metrics, curves, pictures and one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import (
    COMPILE_HELP,
    DEVICE_HELP,
    LAYOUT_HELP,
    PRECISION_HELP,
    ROI_HELP,
    TILE_HELP,
    UNCHECKED,
    WEIGHTS_HELP,
    bars,
    open_model,
    plain_errors,
    tell,
    tell_notes,
)


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A model file, as trained or exported.", show_default=False, readable=UNCHECKED
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            help="Data set in a known layout, or manifest CSV, with test images.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. [default: MODEL-evaluation]"),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="A test image for the picture; may be repeated."),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="List unreadable images, and go on.")
    ] = False,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", help="Also measure the scores of the paper's code, set by set."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once on a GPU.")] = 8,
    tile: Annotated[str | None, typer.Option(help=TILE_HELP)] = None,
    precision: Annotated[str | None, typer.Option(help=PRECISION_HELP)] = None,
    compiled: Annotated[bool, typer.Option("--compile", help=COMPILE_HELP)] = False,
    roi: Annotated[str | None, typer.Option(metavar="FOLDER|CSV", help=ROI_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Measure a model on test images with known defects.

    Writes metrics.json, scores.csv, picture.png, picture.svg and report.html.
    """
    with plain_errors():
        from cflow_ad.cli.tables import print_evaluation
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.evaluation.evaluate import evaluate as run
        from cflow_ad.evaluation.results import check_results, write_results

        detector = open_model(
            model,
            weights=weights,
            device=device,
            tile=tile,
            precision=precision,
            compiled=compiled,
            roi=roi,
        )
        dataset = open_dataset(data, layout)
        dataset.require_test()
        folder = output or model.with_name(f"{model.stem}-evaluation")
        check_results(dataset, folder, picture=picture or [])
        with bars() as shown:
            evaluation = run(
                detector,
                dataset,
                batch_size=batch_size,
                skip_unreadable=skip_unreadable,
                reference=reference,
                progress=lambda done, total: shown.show("evaluate", done, total),
            )
        written = write_results(evaluation, detector, folder, picture=picture or [])
        print_evaluation(evaluation)
        tell_notes(dataset)
        for path in written:
            typer.echo(path)
        for _, reason in evaluation.skipped:
            tell(f"skipped {reason}", "yellow")
        if evaluation.skipped:
            raise typer.Exit(3)
