"""`cflow-ad info`: a model, the backbones, the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cflow_ad.cli.common import plain_errors


def info(
    what: Annotated[
        str, typer.Argument(help="A model file, or `backbones`, or `settings`.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the metadata of a model file, the backbones usable on this machine, or all settings."""
    with plain_errors():
        from cflow_ad.cli import tables

        values: Any
        if what == "backbones":
            from cflow_ad.cflow.backbones import list_backbones

            values = [item._asdict() for item in list_backbones()]
        elif what == "settings":
            from cflow_ad.cli.settings_help import describe_settings

            values = [item._asdict() for item in describe_settings()]
        else:
            from cflow_ad.runtime.opening import describe

            values = describe(Path(what))
        if as_json:
            typer.echo(json.dumps(values, indent=2))
        elif isinstance(values, list):
            tables.print_list(values)
        else:
            tables.print_model(values)
