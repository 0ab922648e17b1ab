"""`cflow-ad update`: a model of the old good images and new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import plain_errors, training_folder
from cflow_ad.cli.options import Device, Roi, Trained, Weights, WorkFolder, path_argument


def update(
    model: Trained,
    more: Annotated[
        Path, path_argument("Folder of new good images, such as of a new variant or light.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The model file to write. [default: MODEL itself]"),
    ] = None,
    old: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with the images that MODEL was trained on; repeatable. [default: where "
            "they were]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    work_in: WorkFolder = None,
    bits: Annotated[int | None, typer.Option(min=8, max=16, hidden=True)] = None,
    roi: Roi = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Train a new model on the images of training and on new good images.

    The settings are kept. The images of training are recognised by their content, so they may have
    other names. MODEL is not replaced before the new model is complete.
    """
    with plain_errors():
        from cflow_ad.cli.calibrate import print_calibration
        from cflow_ad.detector import Detector
        from cflow_ad.store.model_file import check_writable

        target = output or model
        detector = Detector.load(model, weights=weights, device=device)
        detector.read_as(bits=bits)  # another depth is refused, with the way out
        if roi is not None:
            detector.look_in(roi)
        check_writable(target)
        with training_folder(target, work_in, resume=resume) as work:
            with bars() as shown:
                updated = detector.update(
                    more, old=old or (), work=work, progress=shown.show_training
                )
            updated.save(target)
        before, now = detector.training["n_images"], updated.training["n_images"]
        typer.echo(
            f"{target}: trained on {now} images ({before} before) in "
            f"{updated.training['seconds']:.1f} s"
        )
        print_calibration(updated, target, before=detector)
        if updated.screening is not None:
            typer.echo(updated.screening.note)
