"""Help, version, and what they cost."""

import subprocess
import sys

import pytest
from typer.main import get_command

from cflow_ad import Settings, __version__
from cflow_ad.cli import app
from tests.cli.commands import run

COMMANDS = (
    ["demo"],
    ["train"],
    ["evaluate"],
    ["predict"],
    ["calibrate"],
    ["import"],
    ["import", "authors"],
    ["import", "anomalib"],
    ["export"],
    ["info"],
    ["benchmark"],
    ["benchmark", "mvtec"],
    ["data"],
    ["data", "sample"],
    ["data", "sample", "carpet"],
    ["data", "download"],
    ["data", "download", "mvtec"],
    ["score"],
    ["fleet"],
    ["fleet", "train"],
    ["fleet", "status"],
    ["fleet", "pull"],
    ["fleet", "compare"],
    ["fleet", "promote"],
    ["fleet", "rollback"],
)


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help_and_refuses_an_unknown_option(command):
    for option in ("--help", "-h"):
        result = run(*command, option)
        assert result.exit_code == 0
        assert "Usage:" in result.output
    result = run(*command, "--no-such-option")
    assert result.exit_code == 2
    assert "--no-such-option" in result.stderr
    assert result.stdout == ""


def test_help_takes_its_defaults_from_the_settings():
    command = get_command(app).commands["train"]
    helps = {parameter.name: parameter.help for parameter in command.params}
    for name in ("size", "resize", "backbone", "precision", "false_alarm_rate", "seed"):
        assert f"[default: {getattr(Settings(), name)}]" in helps[name]


def test_an_unknown_command_is_a_usage_error():
    assert run("fly").exit_code == 2


def test_without_arguments_help_is_shown():
    assert "Usage:" in run().output


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"cflow-ad {__version__}\n")


@pytest.mark.parametrize("command", ["--help", "train --help", "predict --help", "--version"])
def test_help_imports_nothing_slow(command):
    code = f"""
import sys
from cflow_ad.cli import app
try:
    app({command.split()!r})
except SystemExit as done:
    assert not done.code, done.code
slow = {{"torch", "timm", "numpy", "matplotlib", "PIL", "scipy"}} & set(sys.modules)
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
