"""`cflow-ad info`: a model, the backbones, the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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

        if what == "backbones":
            from cflow_ad.cflow.backbones import list_backbones

            backbones = list_backbones()
            if as_json:
                typer.echo(json.dumps([vars(item) for item in backbones], indent=2))
            else:
                tables.print_backbones(backbones)
        elif what == "settings":
            from cflow_ad.cli.settings_help import describe_settings

            described = describe_settings()
            if as_json:
                typer.echo(json.dumps([item._asdict() for item in described], indent=2))
            else:
                tables.print_settings(described)
        else:
            from cflow_ad.runtime.opening import describe

            metadata = describe(Path(what))
            if as_json:
                typer.echo(json.dumps(metadata, indent=2))
            else:
                tables.print_model(metadata)
