"""`cflow-ad train`: from a folder of good images to a model file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import (
    DEVICE_HELP,
    PRESET_HELP,
    SETTING_HELP,
    UNCHECKED,
    WEIGHTS_HELP,
    bars,
    make_settings,
    plain_errors,
    tell,
)


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images, folder in the MVTec layout, or manifest CSV.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The model file to write.", show_default=False)
    ],
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "default",
    size: Annotated[
        str | None,
        typer.Option(help="Network input, HEIGHTxWIDTH or one number. [default: 256x256]"),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="fit or pad (both keep the aspect ratio) or stretch. [default: fit]"),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A timm model; see `cflow-ad info backbones`."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|auto",
            help="Where defects matter: a mask or polygons (.json) for all images, a folder with a "
            "mask for each, or auto: what stands out from a plain background.",
            show_default=False,
        ),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Lay each part in its place first: none, shift, rigid. [default: none]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="The most steps of a level. [default: 600]")
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of good images that may be called anomalous. [default: 0.01]"),
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Be done in this time, as good as it gets."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice. [default: 0]")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SETTING_HELP)
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the backbone's weights into the model file.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run was stopped.")
    ] = False,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Learn what good looks like from good images alone, and write a model file.

    Part of the images are held out of training, and the threshold is set on them for the stated
    false-alarm rate. Defective images are never looked at.
    """
    with plain_errors():
        settings = make_settings(
            {
                "size": size,
                "resize": resize,
                "backbone": backbone,
                "weights": weights,
                "foreground": "auto" if roi == "auto" else None,
                "align": align,
                "steps": steps,
                "false_alarm_rate": false_alarm_rate,
                "seed": seed,
            },
            setting or [],
            preset=preset,
        )
        from cflow_ad.detector import Detector
        from cflow_ad.model.file import check_writable
        from cflow_ad.training.fit import discard, work_folder

        check_writable(output)
        work = work_folder(output)
        if not resume:
            discard(work)
        try:
            with bars() as shown:
                detector = Detector.fit(
                    data,
                    settings,
                    roi=None if roi == "auto" else roi,
                    device=device,
                    max_seconds=math.inf if max_time is None else max_time,
                    work=work,
                    progress=shown.show_training,
                )
        except KeyboardInterrupt:
            tell("what was done is kept: the same command with --resume goes on from there")
            raise
        detector.save(output, bundle=bundle)
        discard(work)
        training = detector.training
        typer.echo(
            f"{output}: learnt from {training['n_images']} images in {training['seconds']:.1f} s; "
            f"threshold {detector.threshold:.3f}"
        )
        if "aligned_to" in training:
            typer.echo(f"parts are aligned to {training['aligned_to']}")
        if detector.calibration.is_as_asked:
            typer.echo(detector.calibration.note)
