"""The command line. Each command parses, calls and prints; the work is done elsewhere.

Nothing here imports torch, or anything that takes long, before a command runs.
"""

from __future__ import annotations

import io
import sys

import typer

from cflow_ad._version import __version__
from cflow_ad.cli import (
    benchmark,
    calibrate,
    data,
    demo,
    evaluate,
    export,
    import_,
    info,
    predict,
    records,
    serve,
    train,
)
from cflow_ad.process import tune_process

app = typer.Typer(
    name="cflow-ad",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn what good looks like from a folder of good images, then find, outline and score "
    "defects.",
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("info")(info.info)
app.command("serve")(serve.serve)
app.add_typer(import_.app, name="import")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(data.app, name="data")
app.add_typer(records.app, name="records")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cflow-ad {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line, and exit with its status."""
    tune_process()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    sys.exit(app())
