"""`cflow-ad data`: data sets to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import bars, plain_errors

app = typer.Typer(no_args_is_help=True, help="Data sets to try things on.")
sample = typer.Typer(no_args_is_help=True, help="Generate a data set.")
app.add_typer(sample, name="sample")


@app.callback()
def _data() -> None:
    pass


@sample.callback()
def _sample() -> None:
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
