"""`cflow-ad doctor`: what is installed, what is missing, and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import plain_errors
from cflow_ad.cli.serve import DATA, ConfigOption, DataOption

_COLOURS = {"ok": "green", "missing": "yellow", "fault": "red"}


def doctor(
    models: Annotated[
        list[Path] | None, typer.Argument(help="Model files to check.", show_default=False)
    ] = None,
    data: DataOption = DATA,
    config: ConfigOption = None,
) -> None:
    """List what is installed and missing, what this machine can do, and where the data are.

    Exit status: 0, no faults; 1, a fault was found; 2, an error. A missing library is no fault.
    """
    with plain_errors():
        from cflow_ad.station.config import read_config
        from cflow_ad.station.doctor import examine

        settings = read_config(config, data=data, models=tuple(models) if models else None)
        states = []
        for state, what, text in examine(settings):
            states.append(state)
            typer.echo(f"{typer.style(f'{state:8}', fg=_COLOURS[state])}{what:12} {text}")
        if "fault" in states:
            raise typer.Exit(1)
