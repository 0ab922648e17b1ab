"""What a person sees in a terminal while a command runs. No command here imports torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")

SCRIPT = """
import warnings
import typer
from cflow_ad.cli.bars import (bars)
from cflow_ad.cli.common import (plain_errors)
from cflow_ad.errors import CalibrationWarning, DataError
from cflow_ad.fitting.progress import Progress

def work():
    with bars() as shown:
        shown.show("encode", 0, 12345)
        shown.show("encode", 12345, 12345)
        for step in range(1200):
            shown.show_training(Progress("train", step, 2400, 1.2345, 16))
        shown.say("first line of output", "red")
        warnings.warn("too few", CalibrationWarning)
        shown.say("second line of output")
    raise DataError("a.png: wrong")

def command():
    with plain_errors():
        work()

typer.run(command)
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def watch(*, also_output):
    """Run the script with standard error, and perhaps output, in a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=theirs if also_output else subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    output = b"" if process.stdout is None else process.stdout.read()
    if process.stdout is not None:
        process.stdout.close()
    assert process.wait() == 2
    return seen.decode(), output.decode()


@pytest.fixture(scope="module")
def terminal():
    return watch(also_output=True)[0]


def test_lines_of_output_stand_alone_above_the_bars(terminal):
    lines = [
        CONTROL.sub("", line).split("\r")[-1] for line in terminal.replace("\r\n", "\n").split("\n")
    ]
    assert "first line of output" in lines
    assert "second line of output" in lines


def test_output_goes_where_it_is_sent_though_the_bars_are_on_the_screen():
    seen, output = watch(also_output=False)
    assert output == "first line of output\nsecond line of output\n"
    assert "Training" in seen
    assert "line of output" not in seen


def test_warnings_and_errors_are_said_when_the_bars_are_gone(terminal):
    _, after = terminal.split("\x1b[?25h")  # the cursor comes back
    lines = [line.strip() for line in CONTROL.sub("", after).splitlines()]
    assert list(filter(None, lines)) == ["warning: too few", "error: a.png: wrong"]


def test_count_and_time_left_fit_a_narrow_terminal(terminal):
    shown = " ".join(CONTROL.sub("", terminal).split())
    assert "12345/12345" in shown
    rest = r" \d+/2400 [\d.]+ steps/s [\d:-]+ left loss 1.234 \(stride 16\)"
    assert re.search(f"Training [━╸╺]+{rest}", shown)
    assert "…" not in shown
