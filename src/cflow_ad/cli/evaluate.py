"""`cflow-ad evaluate`: metrics, curves, the figure and an HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import open_data, open_model, plain_errors, print_message, print_notes
from cflow_ad.cli.options import (
    BadFolders,
    BatchSize,
    Bits,
    Device,
    GoodFolders,
    Layout,
    MaskFolders,
    ModelFile,
    Precision,
    Roi,
    Weights,
    path_argument,
)


def evaluate(
    model: ModelFile,
    data: Annotated[
        Path, path_argument("Data set in a known layout, or a manifest (CSV), with test images.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. [default: MODEL-evaluation]"),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="A test image for the figure; repeatable. [default: typical ones]"),
    ] = None,
    best_f1: Annotated[
        bool,
        typer.Option(
            "--best-f1",
            help="Draw the figure at the thresholds with the best F1 on these test images, as in "
            "the paper.",
        ),
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip unreadable images, and list them.")
    ] = False,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Also report metrics of the scores of the paper's code."),
    ] = False,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    bits: Bits = None,
    roi: Roi = None,
    weights: Weights = None,
    layout: Layout = None,
    good: GoodFolders = None,
    bad: BadFolders = None,
    masks: MaskFolders = None,
    device: Device = None,
) -> None:
    """Evaluate a model on test images with known defects.

    Writes metrics.json, scores.csv, picture.png, picture.svg and report.html.

    Exit status: 0, done; 2, an error; 3, images were skipped.
    """
    with plain_errors():
        from cflow_ad.cli.tables import print_evaluation
        from cflow_ad.evaluation._wording import describe_trained
        from cflow_ad.evaluation.evaluate import evaluate as run
        from cflow_ad.evaluation.results import check_results, write_results
        from cflow_ad.fitting.group import join_group

        with join_group() as group:
            where = device or group.device
            detector = open_model(
                model, weights=weights, device=where, precision=precision, roi=roi
            )
            detector.read_as(bits=bits)
            dataset = open_data(data, layout, good, bad, masks)
            dataset.require_test()
            folder = output or model.with_name(f"{model.stem}-evaluation")
            check_results(dataset, folder, picture=picture or [])
            with bars(shown=group.rank == 0) as shown:
                evaluation = run(
                    detector,
                    dataset,
                    batch_size=batch_size,
                    skip_unreadable=skip_unreadable,
                    reference=reference,
                    group=group,
                    progress=shown.counter("evaluate"),
                )
        if group.rank > 0:
            return
        written = write_results(
            evaluation, detector, folder, picture=picture or [], best_f1=best_f1
        )
        print_evaluation(evaluation)
        print_notes(dataset)
        if text := describe_trained(evaluation):
            print_message(f"warning: {text}", "yellow")
        for path in written:
            typer.echo(path)
        for _, reason in evaluation.skipped:
            print_message(f"skipped {reason}", "yellow")
        if evaluation.skipped:
            raise typer.Exit(3)
