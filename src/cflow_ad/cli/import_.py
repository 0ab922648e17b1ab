"""`cflow-ad import`: models trained by the authors' code or by anomalib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.calibrate import print_calibration
from cflow_ad.cli.common import plain_errors, print_message
from cflow_ad.cli.options import Device, ModelOutput, Weights, path_argument
from cflow_ad.errors import SettingsError

if TYPE_CHECKING:
    from cflow_ad.detector import Detector

app = typer.Typer(no_args_is_help=True, help="Import a model that another program trained.")

Checkpoint = Annotated[Path, path_argument("The checkpoint.")]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="timm name of the backbone, needed where the tensors fit several.", show_default=False
    ),
]
Good = Annotated[
    Path | None,
    typer.Option(
        help="Folder of good images to calibrate on, as `calibrate` does.", readable=False
    ),
]
FalseAlarmRate = Annotated[
    float | None,
    typer.Option(help="With --good: share of good images that may be called anomalous."),
]
Smoothing = Annotated[
    float | None, typer.Option(help="With --good: standard deviation of the map's smoothing.")
]
Bundle = Annotated[
    bool,
    typer.Option("--bundle/--no-bundle", help="Put the backbone's weights into the model file."),
]


@app.command()
def authors(
    checkpoint: Checkpoint,
    output: ModelOutput,
    backbone: Backbone = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Network input, HEIGHTxWIDTH or one number. [default: that in the file's name, "
            "else 256x256]"
        ),
    ] = None,
    weights: Weights = None,
    later_clamp: Annotated[
        bool,
        typer.Option("--later-clamp", help="The checkpoint was trained with a FrEIA after 0.2."),
    ] = False,
    good: Good = None,
    false_alarm_rate: FalseAlarmRate = None,
    smoothing: Smoothing = None,
    bundle: Bundle = True,
    device: Device = None,
) -> None:
    """Import a checkpoint of the code of CFLOW-AD's authors."""
    with plain_errors():
        from cflow_ad.importers.authors import import_authors

        detector = import_authors(
            checkpoint,
            backbone=backbone,
            size=size,
            weights=weights,
            later_clamp=later_clamp,
            device=device,
        )
        _finish(detector, output, good, false_alarm_rate, smoothing, bundle)


@app.command()
def anomalib(
    checkpoint: Checkpoint,
    output: ModelOutput,
    backbone: Backbone = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Network input, HEIGHTxWIDTH or one number. [default: that of its pre-processor, "
            "else 256x256]"
        ),
    ] = None,
    good: Good = None,
    false_alarm_rate: FalseAlarmRate = None,
    smoothing: Smoothing = None,
    bundle: Bundle = True,
    device: Device = None,
) -> None:
    """Import a checkpoint of anomalib's Cflow."""
    with plain_errors():
        from cflow_ad.importers.anomalib import import_anomalib

        detector = import_anomalib(checkpoint, backbone=backbone, size=size, device=device)
        _finish(detector, output, good, false_alarm_rate, smoothing, bundle)


def _finish(
    detector: Detector,
    output: Path,
    good: Path | None,
    false_alarm_rate: float | None,
    smoothing: float | None,
    bundle: bool,
) -> None:
    from cflow_ad.store.model_file import check_writable

    check_writable(output)
    if good is None and not (false_alarm_rate is None and smoothing is None):
        raise SettingsError("--false-alarm-rate and --smoothing need --good, a folder of images")
    if good is not None:
        with bars() as shown:
            detector = detector.calibrate(
                good,
                false_alarm_rate=false_alarm_rate,
                smoothing=smoothing,
                progress=shown.show_training,
            )
    detector.save(output, bundle=bundle)
    settings = detector.settings
    strides = ", ".join(map(str, settings.strides))
    line = (
        f"{output}: {settings.backbone} at {settings.size}; strides {strides}; "
        f"blocks {settings.method.blocks}"
    )
    if not bundle:
        line += (
            "; without the encoder's weights: to open it, give them with --weights FILE, unless "
            "they are timm's or torchvision's"
        )
    typer.echo(line)
    if assumed := detector.training["assumed"]:
        print_message(
            f"warning: the checkpoint does not state these, and they are assumed: {assumed}",
            "yellow",
        )
    if detector.is_calibrated:
        print_calibration(detector, output)
    else:
        typer.echo(f"not calibrated yet: run `cflow-ad calibrate {output} GOOD`")
