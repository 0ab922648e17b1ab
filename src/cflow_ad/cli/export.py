"""`cflow-ad export`: one graph for other runtimes, compared with the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import plain_errors
from cflow_ad.cli.options import Trained, Weights

if TYPE_CHECKING:
    from cflow_ad.export.export import ExportReport


def export(
    model: Trained,
    format: Annotated[
        str, typer.Option("--format", "-f", help="onnx, openvino or torch (torch.export).")
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write. [default: beside the model]"),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16 or bf16 (weights of half the size), or int8 (needs --data); "
            "torch: fp32 only."
        ),
    ] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(
            help="Size of the graph's input: dynamic, or HEIGHTxWIDTH. "
            "[default: dynamic unless resize is pad or stretch]"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of good images, or a data set, to compare the graph and the model on. "
            "Training images among them give the ranges of int8, other good images set the "
            "thresholds below fp32. [default: generated images]",
            readable=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Keep the file even if fp16, bf16 or int8 change too much, or are slower here "
            "than fp32.",
        ),
    ] = False,
    weights: Weights = None,
) -> None:
    """Write a model as one graph, from an image's pixels to anomaly map and score.

    The file is run and compared with the trained model. At fp32 it is refused if a score or a
    pixel differs by more than 1e-4, or an image changes between good and anomalous; below fp32 the
    bounds are wider.
    """
    with plain_errors():
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.detector import Detector
        from cflow_ad.export.export import export_model
        from cflow_ad.export.files import suffix_of

        chosen: Any = format
        path = output or model.with_suffix(suffix_of(chosen))
        dataset = None if data is None else open_dataset(data)
        detector = Detector.load(model, weights=weights, device="cpu")
        with bars() as shown:
            report = export_model(
                detector,
                path,
                format=chosen,
                precision=precision,  # type: ignore[arg-type]
                size=size,
                data=dataset,
                force=force,
                progress=shown.counter("compare"),
            )
        _print(report, detector.threshold)


def _print(report: ExportReport, threshold: float) -> None:
    size = "any size" if report.size is None else "{}x{}".format(*report.size)
    typer.echo(
        f"{report.path}: {report.format}, {report.precision}, {size}, "
        f"{report.n_bytes / 2**20:.1f} MiB"
    )
    change = report.change
    images = "generated images" if change.generated else "images"
    typer.echo(
        f"compared on {change.n_images} {images}: scores change by {change.mean:.2g} on average "
        f"over good ones, no score or pixel by more than {change.largest:.2g}; "
        f"{change.flipped} change between good and anomalous"
    )
    times = report.times
    typer.echo(f"one image: {times.own:.1f} ms, {times.beside} {times.other:.1f} ms")
    for name, before, after in change.auroc:
        typer.echo(f"{name} AUROC: {100 * before:.2f} trained, {100 * after:.2f} exported")
    if report.calibration.threshold != threshold:
        typer.echo(
            f"new threshold: {threshold:.3f} trained, {report.calibration.threshold:.3f} exported"
        )
