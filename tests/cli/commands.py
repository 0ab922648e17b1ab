"""Commands, run as a person would run them."""

from __future__ import annotations

import os
import subprocess
import sys

from typer.testing import CliRunner

from cflow_ad.cli import app

SMALL = [
    "--size",
    "64x64",
    "--steps",
    "3",
    "--set",
    "blocks=2",
    "--set",
    "strides=8,16",
    "--set",
    "batch_size=64",
]
TINY = [*SMALL, "--backbone", "test_efficientnet", "--weights", "random", "--device", "cpu"]


def run(*arguments):
    """Run a command in this process; what comes back has exit_code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments, status=2):
    """Run a command that must fail with one clear line; the line."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def start(*arguments, **options):
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cflow_ad.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )
