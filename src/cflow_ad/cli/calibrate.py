"""`cflow-ad calibrate`: set a model's threshold on other good images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import plain_errors
from cflow_ad.cli.options import Device, Roi, Trained, Weights, path_argument

if TYPE_CHECKING:
    from cflow_ad.detector import Detector


def calibrate(
    model: Trained,
    good: Annotated[
        Path | None,
        path_argument(
            "Folder of good images that the model was not trained on. Without it, the threshold is "
            "set on the scores that the model holds."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The model file to write. [default: MODEL itself]"),
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of good images that may be called anomalous. [default: unchanged]"
        ),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the anomaly map's smoothing, in pixels of the network's "
            "input. [default: unchanged]"
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Number format of scoring: fp32, tf32 or bf16. [default: unchanged]"),
    ] = None,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Also fit location and scale of each level again.")
    ] = False,
    miss_nothing: Annotated[
        Path | None,
        typer.Option(
            metavar="DEFECTS",
            help="Lower the threshold below the scores of these defective images: an image, a "
            "folder, or the defective test images of a data set.",
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=16,
            help="Depth of GOOD and of later images, with 16 bits a value. [default: unchanged]",
        ),
    ] = None,
    roi: Roi = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Set a model's threshold for a stated false-alarm rate, on good images alone.

    For an imported model, location and scale of each level are fitted too.
    """
    with plain_errors():
        from cflow_ad.detector import Detector
        from cflow_ad.store.model_file import check_writable

        target = output or model
        detector = Detector.load(model, weights=weights, device=device)
        detector.read_as(bits=bits)
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
                miss_nothing=miss_nothing,
                progress=shown.show_training,
            )
        calibrated.save(target)
        print_calibration(calibrated, target, before=detector)


def print_calibration(detector: Detector, path: Path, *, before: Detector | None = None) -> None:
    """Print a model's new threshold, and what it promises unless a warning has done so."""
    calibration = detector.calibration
    was = f" (before: {before.threshold:.3f})" if before and before.is_calibrated else ""
    typer.echo(
        f"{path}: threshold {calibration.threshold:.3f}{was}, set on {calibration.n_images} good "
        f"image{'s' * (calibration.n_images != 1)}"
    )
    if calibration.is_as_asked:
        typer.echo(calibration.note)
