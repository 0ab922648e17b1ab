"""`cflow-ad calibrate`: set a model's threshold on other good images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.common import (
    DEVICE_HELP,
    ROI_HELP,
    UNCHECKED,
    WEIGHTS_HELP,
    bars,
    plain_errors,
)

if TYPE_CHECKING:
    from cflow_ad.detector import Detector


def calibrate(
    model: Annotated[
        Path, typer.Argument(help="A model file.", show_default=False, readable=UNCHECKED)
    ],
    good: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images that the model was not trained on.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The model file to write. [default: MODEL itself]"),
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of good images that may be called anomalous. [default: as it is]"),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(help="Of the anomaly map, in pixels of the input. [default: as it is]"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="To score in from now on: fp32 or bf16. [default: as it is]")
    ] = None,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale", help="Fit the scale of each level anew too, as for an imported model."
        ),
    ] = False,
    roi: Annotated[str | None, typer.Option(metavar="FOLDER|CSV", help=ROI_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Set a model's threshold for a stated false-alarm rate, on good images alone.

    An imported model, which has no scale yet, gets one from part of the images.
    """
    with plain_errors():
        from cflow_ad.detector import Detector
        from cflow_ad.store.model_file import check_writable

        target = output or model
        detector = Detector.load(model, weights=weights, device=device)
        if roi is not None:
            detector.look_in(roi)
        check_writable(target)
        with bars() as shown:
            calibrated = detector.calibrate(
                good,
                false_alarm_rate=false_alarm_rate,
                smoothing=smoothing,
                precision=precision,  # type: ignore[arg-type]
                rescale=rescale,
                progress=shown.show_training,
            )
        calibrated.save(target)
        tell_calibration(calibrated, target, before=detector)


def tell_calibration(detector: Detector, path: Path, *, before: Detector | None = None) -> None:
    """Print a model's new threshold, and what it promises unless a warning has said so."""
    calibration = detector.calibration
    was = f" (before: {before.threshold:.3f})" if before and before.is_calibrated else ""
    typer.echo(
        f"{path}: threshold {calibration.threshold:.3f}{was}, set on {calibration.n_images} good "
        f"image{'s' * (calibration.n_images != 1)}"
    )
    if calibration.is_as_asked:
        typer.echo(calibration.note)
