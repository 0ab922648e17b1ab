"""`cflow-ad train`: from a folder of good images to a model file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import (
    open_data,
    parse_settings,
    plain_errors,
    print_message,
    print_notes,
    training_folder,
)
from cflow_ad.cli.options import (
    PRESET_HELP,
    SETTING_HELP,
    BadFolders,
    DataFolder,
    Device,
    GoodFolders,
    Layout,
    MaskFolders,
    ModelOutput,
    WorkFolder,
)
from cflow_ad.cli.settings_help import setting_option
from cflow_ad.errors import SettingsError
from cflow_ad.settings import Settings

if TYPE_CHECKING:
    from cflow_ad.detector import Detector


def train(
    data: DataFolder,
    output: ModelOutput,
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "default",
    size: Annotated[str | None, setting_option("size")] = None,
    resize: Annotated[str | None, setting_option("resize")] = None,
    backbone: Annotated[str | None, setting_option("backbone")] = None,
    weights: Annotated[str | None, setting_option("weights")] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|auto",
            help="Region of interest: a mask or polygons (.json) for all images; a folder with a "
            "mask for each image, or a manifest with a column roi; or `auto`, the part on a plain "
            "background.",
            show_default=False,
        ),
    ] = None,
    align: Annotated[str | None, setting_option("align")] = None,
    bits: Annotated[int | None, setting_option("bits")] = None,
    page: Annotated[int | None, setting_option("page")] = None,
    bayer: Annotated[str | None, setting_option("bayer")] = None,
    precision: Annotated[str | None, setting_option("precision")] = None,
    steps: Annotated[int | None, setting_option("steps")] = None,
    false_alarm_rate: Annotated[float | None, setting_option("false_alarm_rate")] = None,
    seed: Annotated[int | None, setting_option("seed")] = None,
    max_time: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Stop training early to finish in time."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SETTING_HELP)
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Exclude an image, or those listed in a .csv or .txt file; repeatable.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page with the outliers among the good images, and a .csv list of them.",
        ),
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the backbone's weights into the model file.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    work_in: WorkFolder = None,
    layout: Layout = None,
    good: GoodFolders = None,
    bad: BadFolders = None,
    masks: MaskFolders = None,
    device: Device = None,
) -> None:
    """Train on good images, and write a model file.

    The threshold is set for the false-alarm rate, on out-of-fold scores of the good images.
    Defective images are not used. Outliers among the good images, which may be defective, are
    reported; none is excluded unless you name it.

    Several processes can train one model together: `torchrun --nproc-per-node 2 -m cflow_ad train`.
    """
    with plain_errors():
        given = {
            "size": size,
            "resize": resize,
            "backbone": backbone,
            "weights": weights,
            "foreground": "auto" if roi == "auto" else None,
            "align": align,
            "bits": bits,
            "page": page,
            "bayer": bayer,
            "precision": precision,
            "steps": steps,
            "false_alarm_rate": false_alarm_rate,
            "seed": seed,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        settings = Settings.preset(preset, **changes | parse_settings(setting or []))
        from cflow_ad.data.clusters import describe_cluster, look_at_some
        from cflow_ad.data.excluding import read_exclusions
        from cflow_ad.detector import Detector
        from cflow_ad.fitting.group import join_group
        from cflow_ad.store.model_file import check_writable

        dataset = open_data(data, layout, good, bad, masks)
        names = read_exclusions(exclude or [])
        if report is not None:
            _check_report(report, exclude or [])
        check_writable(output)
        with (
            join_group() as group,
            training_folder(output, work_in, resume=resume, group=group) as work,
        ):
            with bars(shown=group.rank == 0) as shown:
                detector = Detector.fit(
                    dataset,
                    settings,
                    roi=None if roi == "auto" else roi,
                    device=device,
                    exclude=names,
                    max_seconds=math.inf if max_time is None else max_time,
                    work=work,
                    group=group,
                    progress=shown.show_training,
                )
            if group.rank == 0:
                detector.save(output, bundle=bundle)
        if group.rank > 0:
            return
        training = detector.training
        typer.echo(
            f"{output}: trained on {training['n_images']} images in {training['seconds']:.1f} s; "
            f"threshold {detector.threshold:.3f}"
        )
        typer.echo(f"depth of the pixels: {training['depth']}")
        if "aligned_to" in training:
            typer.echo(f"images are aligned to {training['aligned_to']}")
        if detector.calibration.is_as_asked:
            typer.echo(detector.calibration.note)
        print_notes(dataset)
        paths = [sample.path for sample in dataset.train]
        if text := describe_cluster(*look_at_some(paths, detector.reading)):
            print_message(f"warning: {text}", "yellow")
        _print_screening(detector, report)


def _check_report(report: Path, exclude: list[str]) -> None:
    """Check the page's path before training; its list must not overwrite one of `exclude`."""
    from cflow_ad.evaluation.suspects import list_beside
    from cflow_ad.files import require_writable

    if report.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--report {report}: the name must end in .html")
    listed = list_beside(report)
    for file in (report, listed):
        if file.is_dir():
            raise SettingsError(f"--report {report}: {file} is a folder; choose another name")
    require_writable(report)
    if any(listed.resolve() == Path(name).resolve() for name in exclude):
        raise SettingsError(
            f"--report {report}: its list would overwrite {listed}, which --exclude names; give "
            "the report another name"
        )


def _print_screening(detector: Detector, report: Path | None) -> None:
    """Print which good images are outliers, and write the page if it is asked for."""
    screening = detector.screening
    assert screening is not None, "`fit` screens the images"
    typer.echo(screening.note)
    if report is not None:
        from cflow_ad.evaluation.suspects import list_beside, write_suspects

        write_suspects(screening, report)
        listed = list_beside(report)
        hint = f"; train with --exclude {listed} to exclude those on its list"
        hint = hint if screening.flagged else ""
        typer.echo(f"{report}: the images with the highest scores{hint}")
    elif screening.flagged:
        typer.echo("--report FILE.html shows them; --exclude excludes them.")
