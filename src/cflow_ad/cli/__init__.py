"""The command line. Each command parses, calls and prints; the work is done elsewhere.

Nothing here imports torch, or anything that takes long, before a command runs.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import typer

from cflow_ad._version import __version__
from cflow_ad.cli import (
    benchmark,
    calibrate,
    data,
    demo,
    doctor,
    evaluate,
    export,
    fleet,
    import_,
    info,
    predict,
    records,
    score,
    serve,
    train,
    update,
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
app.command("update")(update.update)
app.command("export")(export.export)
app.command("score")(score.score)
app.command("info")(info.info)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(import_.app, name="import")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(data.app, name="data")
app.add_typer(records.app, name="records")
app.add_typer(fleet.app, name="fleet")


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names may hold any bytes, and characters that a code page lacks.
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = map(_expand_home, sys.argv[1:])
    sys.exit(app())


def _expand_home(argument: str) -> str:
    """Expand `~` where no shell did: in quotes, after `--option=`, on Windows."""
    option, equals, value = argument.partition("=")
    if not (option.startswith("--") and equals):
        option, equals, value = "", "", argument
    if not value.startswith("~") or Path(value).exists():
        return argument
    return option + equals + os.path.expanduser(value)  # noqa: PTH111 (leaves `~nobody` as it is)
