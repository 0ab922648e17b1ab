"""`cflow-ad records`: check, export and back up a station's record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import plain_errors, print_message
from cflow_ad.cli.options import Device
from cflow_ad.cli.serve import DATA, ConfigOption, DataOption

app = typer.Typer(no_args_is_help=True, help="Check, export and back up a station's record.")

BROKEN = 1


@app.command()
def verify(
    data: DataOption = DATA,
    config: ConfigOption = None,
    rescore: Annotated[
        int | None,
        typer.Option(min=0, help="Score only this many pictures again, the newest. [default: all]"),
    ] = None,
    device: Device = None,
) -> None:
    """Check that no row, model or picture is altered or missing, and reproduce the scores.

    Exit status: 0, the record is whole; 1, it is not; 2, an error.
    """
    with plain_errors():
        from cflow_ad.evaluation._wording import count
        from cflow_ad.station.config import read_config
        from cflow_ad.station.verify import verify as find_faults

        found = 0
        settings = read_config(config, data=data, device=device)
        for found, fault in enumerate(find_faults(settings, rescore=rescore), start=1):  # noqa: B007
            print_message(fault, "red")
        if found:
            print_message(f"{data}: {count(found, 'fault')}", "red")
            raise typer.Exit(BROKEN)
        typer.echo(f"{data}: the record is whole")


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="A .csv or .parquet file.")],
    data: DataOption = DATA,
    config: ConfigOption = None,
) -> None:
    """Write all inspections to a .csv or .parquet file."""
    with plain_errors():
        from cflow_ad.station.config import read_config
        from cflow_ad.station.verify import export as write

        count = write(read_config(config, data=data), output)
        typer.echo(f"{output}: {count} inspections")


@app.command()
def backup(
    into: Annotated[
        Path, typer.Argument(help="Folder in which the folder of the back-up is made.")
    ],
    data: DataOption = DATA,
    config: ConfigOption = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Copy the pictures too.")] = False,
) -> None:
    """Copy database, key and models while the station runs."""
    with plain_errors():
        from cflow_ad.station.backup import back_up
        from cflow_ad.station.config import read_config

        folder = back_up(read_config(config, data=data), into, with_pictures=pictures)
        typer.echo(f"{folder}: written; `cflow-ad serve --data {folder}` starts from it")
