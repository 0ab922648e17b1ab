"""Commands, run as a person would run them."""

from __future__ import annotations

import os
import subprocess
import sys

from typer.testing import CliRunner

from cflow_ad.cli import app

SMALL = [
    "--preset",
    "fast",
    "--size",
    "64x64",
    "--steps",
    "3",
    "--set",
    "strides=8,16",
    "--set",
    "batch_size=64",
    "--set",
    "folds=2",
]
TINY = [*SMALL, "--backbone", "test_efficientnet", "--weights", "random", "--device", "cpu"]


def run(*arguments):
    """Run a command in this process; what comes back has exit_code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments, status=2):
    """Run a command that must fail with one line, and return the line."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


COMMAND = "from cflow_ad.cli import main; main()"

# Slow steps of training, each of them saved, so that there is one to interrupt.
SLOWLY = """
import time
from cflow_ad.fitting import checkpoint, likelihood as flows
rate = flows.learning_rate_at
flows.learning_rate_at = lambda *arguments: (time.sleep(0.05), rate(*arguments))[1]
checkpoint._SECONDS, checkpoint._SHARE = 0.0, 1e9
"""

# A shell's background jobs, and what they start, ignore Ctrl-C.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def start(*arguments, before="", **options):
    """Start a command in its own process, after code that changes it."""
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE + before + COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # `communicate` does not see what `readline` has taken into a buffer
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )
