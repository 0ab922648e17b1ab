"""`cflow-ad data`: look at data sets, and get some to try things on."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import LAYOUT_HELP, UNCHECKED, bars, plain_errors, tell
from cflow_ad.errors import DataError

MB = 10**6

app = typer.Typer(no_args_is_help=True, help="Check data sets, and get some to try things on.")
sample = typer.Typer(no_args_is_help=True, help="Generate a data set.")
download = typer.Typer(no_args_is_help=True, help="Fetch a data set from its maker.")
app.add_typer(sample, name="sample")
app.add_typer(download, name="download")


HAS_ERRORS = 1
"""Exit status of a check that found what would stop training or evaluating."""


@app.callback()
def _data() -> None:
    pass


@app.command()
def check(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images, a data set in a known layout, or manifest CSV.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at every image and mask, and say what is wrong or strange.

    Exit status: 0, nothing would stop training or evaluating (there may be warnings); 1, something
    would: an image, a mask or a region of interest that cannot be read, or does not fit; 2, the
    data set cannot be opened.
    """
    with plain_errors():
        from cflow_ad.data.check import check_dataset
        from cflow_ad.data.layouts import open_dataset

        dataset = open_dataset(data, layout)
        with bars() as shown:
            found = check_dataset(
                dataset, progress=lambda done, total: shown.show("check", done, total)
            )
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))
        else:
            from cflow_ad.cli.tables import print_check

            print_check(found)
        if found.errors:
            raise typer.Exit(HAS_ERRORS)


@app.command()
def export(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of good images, a data set in a known layout, or manifest CSV.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", "-f", help="manifest, coco, or mvtec (copies the images).")
    ] = "manifest",
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
) -> None:
    """Write a data set in a form that other tools read, masks included."""
    with plain_errors():
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.export.dataset import export_dataset

        dataset = open_dataset(data, layout)
        with bars() as shown:
            written = export_dataset(
                dataset,
                output,
                format,  # type: ignore[arg-type]
                progress=lambda done, total: shown.show("write", done, total),
            )
        for path in written:
            typer.echo(path)


@app.command()
def frames(
    videos: Annotated[
        Path,
        typer.Argument(
            help="A video, or a folder of them.", show_default=False, readable=UNCHECKED
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="Folder for the frames, one in it for each.", show_default=False),
    ],
    every: Annotated[int, typer.Option(min=1, help="Take only each so-and-so-many-th.")] = 1,
) -> None:
    """Write the frames of videos as PNG, to train on: OUTPUT/VIDEO/000000.png and so on.

    Needs PyAV: pip install 'cflow-ad[video]'.
    """
    with plain_errors():
        from cflow_ad.data.video import extract_frames

        with bars() as shown:
            extract_frames(
                videos,
                output,
                every=every,
                progress=lambda done, total: shown.show("frames", done, total),
            )
        typer.echo(output)


@sample.callback()
def _sample() -> None:
    pass


@download.callback()
def _download() -> None:
    pass


@sample.command()
def carpet(
    output: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    train: Annotated[int, typer.Option(min=0, help="Good images to train on.")] = 100,
    good: Annotated[int, typer.Option(min=0, help="Good images to test on.")] = 20,
    per_defect: Annotated[int, typer.Option(min=0, help="Images of each defect.")] = 8,
    size: Annotated[int, typer.Option(min=64, help="Side of an image, in pixels.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
) -> None:
    """Weave a carpet, good and with five kinds of defect, in the MVTec layout."""
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
                progress=lambda done, total: shown.show("weave", done, total),
            )
        typer.echo(output)


@download.command()
def mvtec(
    output: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree to the licence.")] = False,
    archive: Annotated[
        Path | None,
        typer.Option(help="The archive, fetched by hand.", readable=UNCHECKED),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Fetch it from here, if it has moved; the checksum is the same."),
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Leave the archive beside the folder.")
    ] = False,
) -> None:
    """Fetch MVTec AD: 15 classes, 5 GB, for non-commercial use only.

    A download that was broken off goes on with the same command. The archive is checked against
    its SHA-256 before it is unpacked.
    """
    with plain_errors():
        from cflow_ad.data.download import MVTEC_AD, download

        wanted = MVTEC_AD if url is None else dataclasses.replace(MVTEC_AD, url=url)
        tell(wanted.terms)
        if not (yes or _agrees()):
            raise DataError(
                "nothing was fetched, since the licence was not agreed to; answer y, or give --yes"
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
    # Not typer.confirm, which puts a part of the question among the output.
    typer.echo("Do you agree? [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # no one is there to answer
        tell("")
    return answer.strip().lower() in ("y", "yes")
