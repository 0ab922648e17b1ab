"""`cflow-ad train`: from a folder of good images to a model file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.common import (
    DEVICE_HELP,
    LAYOUT_HELP,
    PRESET_HELP,
    SETTING_HELP,
    TILE_HELP,
    UNCHECKED,
    WEIGHTS_HELP,
    bars,
    make_settings,
    plain_errors,
    tell,
    tell_notes,
)
from cflow_ad.errors import SettingsError

if TYPE_CHECKING:
    from cflow_ad.detector import Detector


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images, a data set in a known layout, or manifest CSV.",
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
        typer.Option(
            help="Network input: HEIGHTxWIDTH or one number; native, each image at its own size; "
            "longest=N, scaled down to it where longer. [default: 256x256]"
        ),
    ] = None,
    tile: Annotated[str | None, typer.Option(help=TILE_HELP)] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="snap (keeps the aspect ratio, but for rounding sides to multiples of 32), fit or "
            "pad (keep it, and mirror the rest), or stretch. [default: snap]"
        ),
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
            "mask for each, or auto: what stands out from a plain background. A manifest may also "
            "name masks, in a column roi.",
            show_default=False,
        ),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Lay each part in its place first: none, shift, rigid. [default: none]"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="To encode and to score in: fp32, or bf16, faster where the processor has such "
            "instructions (AVX-512 BF16, AMX, GPUs). [default: fp32]"
        ),
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
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Leave an image out, or those listed in a .csv or .txt file; repeatable.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page of the good images that stand out, and a list of them beside it.",
        ),
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the backbone's weights into the model file.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run was stopped.")
    ] = False,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Learn what good looks like from good images alone, and write a model file.

    Part of the images are held out of training, and the threshold is set on them for the stated
    false-alarm rate. Defective images are never looked at. Good images that stand out from the
    others, as defective ones among them would, are named; none is left out unless you say so.
    """
    with plain_errors():
        settings = make_settings(
            {
                "size": size,
                "tile": tile,
                "resize": resize,
                "backbone": backbone,
                "weights": weights,
                "foreground": "auto" if roi == "auto" else None,
                "align": align,
                "precision": precision,
                "steps": steps,
                "false_alarm_rate": false_alarm_rate,
                "seed": seed,
            },
            setting or [],
            preset=preset,
        )
        from cflow_ad.data.excluding import read_exclusions
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.detector import Detector
        from cflow_ad.fitting.fit import discard, work_folder
        from cflow_ad.store.model_file import check_writable

        dataset = open_dataset(data, layout)
        names = read_exclusions(exclude or [])
        if report is not None:
            _check_report(report, exclude or [])
        check_writable(output)
        work = work_folder(output)
        if not resume:
            discard(work)
        try:
            with bars() as shown:
                detector = Detector.fit(
                    dataset,
                    settings,
                    roi=None if roi == "auto" else roi,
                    device=device,
                    exclude=names,
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
        tell_notes(dataset)
        _tell_screening(detector, report)


def _check_report(report: Path, exclude: list[str]) -> None:
    """Before the work: a name that can be, and no list overwritten that is being used."""
    from cflow_ad.evaluation.suspects import list_beside

    if report.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--report {report}: the name must end in .html")
    if report.is_dir():
        raise SettingsError(f"--report {report}: this is a folder; name a file in it")
    listed = list_beside(report)
    if any(listed.resolve() == Path(name).resolve() for name in exclude):
        raise SettingsError(
            f"--report {report}: its list would overwrite {listed}, which --exclude names; give "
            "the report another name"
        )


def _tell_screening(detector: Detector, report: Path | None) -> None:
    """Say which good images stand out, and write the page if one is wanted."""
    screened = detector.screening
    assert screened is not None, "a detector just trained has screened its images"
    typer.echo(screened.note)
    if report is not None:
        from cflow_ad.evaluation.suspects import list_beside, write_suspects

        write_suspects(screened, report)
        listed = list_beside(report)
        after = f"; to leave out what is bad, train with --exclude {listed}"
        typer.echo(f"{report}: pictures of them{after if screened.flagged else ''}")
    elif screened.flagged:
        typer.echo("Look at them with --report FILE.html; leave them out with --exclude.")
