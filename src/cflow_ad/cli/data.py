"""`cflow-ad data`: check, generate and download data sets."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import open_data, plain_errors, print_message
from cflow_ad.cli.options import BadFolders, DataFolder, GoodFolders, Layout, MaskFolders, NewFolder
from cflow_ad.cli.settings_help import setting_option
from cflow_ad.errors import DataError
from cflow_ad.settings import Settings

MB = 10**6

app = typer.Typer(no_args_is_help=True, help="Check, export, generate and download data sets.")
sample = typer.Typer(no_args_is_help=True, help="Generate a data set.")
download = typer.Typer(no_args_is_help=True, help="Download a data set from its publisher.")
app.add_typer(sample, name="sample")
app.add_typer(download, name="download")
for group in (sample, download):
    group.callback()(lambda: None)  # else their only commands would have no names

HAS_ERRORS = 1
"""Exit status of a check that found errors."""


@app.command()
def check(
    data: DataFolder,
    layout: Layout = None,
    good: GoodFolders = None,
    bad: BadFolders = None,
    masks: MaskFolders = None,
    bits: Annotated[int | None, setting_option("bits")] = None,
    page: Annotated[int | None, setting_option("page")] = None,
    bayer: Annotated[str, setting_option("bayer")] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check every image and mask, and list errors and warnings.

    An error stops training or evaluation: an image, a mask or a region of interest that cannot be
    read, or that does not fit. Exit status: 0, no errors; 1, errors; 2, the data set cannot be
    opened.
    """
    with plain_errors():
        from cflow_ad.data.check import check_dataset

        dataset = open_data(data, layout, good, bad, masks)
        settings = Settings(bits=bits, page=page, bayer=bayer)  # type: ignore[arg-type]
        with bars() as shown:
            found = check_dataset(dataset, settings.reading, progress=shown.counter("check"))
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))
        else:
            from cflow_ad.cli.tables import print_check

            print_check(found)
        if found.errors:
            raise typer.Exit(HAS_ERRORS)


@app.command()
def export(
    data: DataFolder,
    output: NewFolder,
    format: Annotated[
        str, typer.Option("--format", "-f", help="manifest, coco, or mvtec (copies the images).")
    ] = "manifest",
    layout: Layout = None,
    good: GoodFolders = None,
    bad: BadFolders = None,
    masks: MaskFolders = None,
) -> None:
    """Write a data set, with its masks, in a format that other tools read."""
    with plain_errors():
        from cflow_ad.export.dataset import export_dataset

        dataset = open_data(data, layout, good, bad, masks)
        with bars() as shown:
            written = export_dataset(
                dataset,
                output,
                format,  # type: ignore[arg-type]
                progress=shown.counter("write"),
            )
        for path in written:
            typer.echo(path)


@sample.command()
def carpet(
    output: NewFolder,
    train: Annotated[int, typer.Option(min=0, help="Good images to train on.")] = 100,
    good: Annotated[int, typer.Option(min=0, help="Good images to test on.")] = 20,
    per_defect: Annotated[int, typer.Option(min=0, help="Images of each defect.")] = 8,
    size: Annotated[int, typer.Option(min=64, help="Side of an image, in pixels.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
) -> None:
    """Generate images of a carpet, good and with five types of defects, in the MVTec layout."""
    with plain_errors():
        from cflow_ad.data.carpet import write_carpet

        with bars() as shown:
            write_carpet(
                output,
                train=train,
                good=good,
                per_defect=per_defect,
                size=size,
                seed=seed,
                progress=shown.counter("weave"),
            )
        typer.echo(output)


@download.command()
def mvtec(
    output: NewFolder,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree to the licence.")] = False,
    archive: Annotated[
        Path | None, typer.Option(help="The archive, if already downloaded.", readable=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="Another address of the same archive.")] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Keep the archive, beside the folder.")
    ] = False,
) -> None:
    """Download MVTec AD: 15 classes, 5 GB, for non-commercial use only.

    The same command continues an interrupted download. The archive's SHA-256 is checked before it
    is unpacked.
    """
    with plain_errors():
        from cflow_ad.data.download import MVTEC_AD, download

        wanted = MVTEC_AD if url is None else dataclasses.replace(MVTEC_AD, url=url)
        print_message(wanted.terms)
        if not (yes or _agrees()):
            raise DataError(
                "not downloaded: the licence was not agreed to; answer y, or give --yes"
            )
        with bars() as shown:
            download(
                wanted,
                output,
                file=archive,
                keep=keep_archive,
                progress=lambda stage, done, total: shown.show(stage, done // MB, total // MB),
            )
        typer.echo(output)


def _agrees() -> bool:
    # Not typer.confirm, which prints part of the question to standard output.
    typer.echo("Do you agree? [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the end of the input
        print_message("")
    return answer.strip().lower() in ("y", "yes")
