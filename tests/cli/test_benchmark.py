"""`benchmark mvtec`: what is shown and written, exit statuses, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest

from tests.cli.commands import SLOWLY, refused, run, start

SETTINGS = ("backbone=test_efficientnet", "weights=random", "size=64x64", "blocks=2", "steps=2")
TINY = [f"-s{text}" for text in (*SETTINGS, "strides=8,16", "batch_size=64")]
ONCE = [*TINY, "--seeds", "1", "--device", "cpu"]


@pytest.fixture(scope="session")
def mvtec(carpet, tmp_path_factory):
    """Two small classes; not to be changed."""
    folder = tmp_path_factory.mktemp("mvtec")
    for name in ("bottle", "carpet"):
        shutil.copytree(carpet, folder / name)
    return folder


def told(folder):
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured(mvtec, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    result = run("benchmark", "mvtec", mvtec, "-o", out, *ONCE)
    assert result.exit_code == 0, result.output
    return result, out


def test_every_class_is_shown_beside_the_papers_figures(measured):
    result, out = measured
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "bottle, seed 0 (1 of 2)"
    assert lines[1].startswith("image AUROC ")
    assert "beside the paper's WideResNet-50-2" in result.stdout
    beside = told(out)["beside"]["WideResNet-50-2"]["carpet"]
    expected = [
        text
        for area in beside.values()
        for text in (
            f"{area['mean']:.2f}",
            f"{area['published']:.2f}",
            f"{area['difference']:+.2f}",
        )
    ]
    assert any(line.split() == ["carpet", *expected] for line in lines)
    assert lines[-4:] == [
        str(out / name)
        for name in (
            "benchmark.md",
            "benchmark.json",
            "pictures/bottle.png",
            "pictures/carpet.png",
        )
    ]
    assert all(len(line) <= 80 for line in lines if str(out) not in line)


def test_the_table_with_spread_fits_a_narrow_screen(mvtec, measured, tmp_path):
    out = shutil.copytree(measured[1], tmp_path / "out")
    more = [*TINY, "--seeds", "2", "--device", "cpu"]
    result = run("benchmark", "mvtec", mvtec, "-o", out, *more)
    assert result.exit_code == 0
    assert "bottle, seed 1 (2 of 4)" in result.stdout
    assert "bottle, seed 0" not in result.stdout
    assert result.stdout.count("±") >= 9
    assert "…" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(out) not in line)


def test_the_same_again_measures_nothing_and_shows_the_same(mvtec, measured):
    result, out = measured
    again = run("benchmark", "mvtec", mvtec, "-o", out, *ONCE)
    assert again.exit_code == 0
    assert result.stdout.endswith(again.stdout)
    assert "seed 0" not in again.stdout


def test_other_settings_are_refused(mvtec, measured):
    _, out = measured
    line = refused("benchmark", "mvtec", mvtec, "-o", out, *ONCE, "-s", "steps=3")
    assert f"{out}: has results of other settings (steps is 2 there and 3 now)" in line


def test_a_class_that_fails_is_said_and_the_status_shows_it(mvtec, tmp_path):
    data = shutil.copytree(mvtec, tmp_path / "data")
    broken = data / "bottle" / "train" / "good" / "003.png"
    broken.write_bytes(b"")
    result = run("benchmark", "mvtec", data, "-o", tmp_path / "out", *ONCE)
    assert result.exit_code == 3
    assert f"failed: {broken}" in result.stdout
    assert "Failed: bottle, seed 0:" in result.stdout
    assert told(tmp_path / "out")["classes"].keys() == {"carpet"}


def test_where_every_class_fails_there_is_no_table(mvtec, tmp_path):
    (tmp_path / "wood").mkdir()
    result = run("benchmark", "mvtec", tmp_path, "-o", tmp_path / "out", *ONCE)
    assert result.exit_code == 3
    assert "beside" not in result.stdout
    assert "Failed: wood, seed 0" in result.stdout


def test_one_class_by_its_folder_and_by_its_name(mvtec, tmp_path):
    for number, arguments in enumerate(([mvtec / "carpet"], [mvtec, "--classes", " carpet"])):
        out = tmp_path / str(number)
        assert run("benchmark", "mvtec", *arguments, "-o", out, *ONCE).exit_code == 0
        assert told(out)["classes"].keys() == {"carpet"}
    assert told(tmp_path / "0")["beside"] == told(tmp_path / "1")["beside"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "bottle,banana"], "'banana' is no class of MVTec AD"),
        (["--classes", ""], "'' is no class of MVTec AD"),
        (["--classes", "wood"], "wood is not there"),
        (["-s", "steps=many"], "steps is 'many'"),
        (["-s", "steps"], "write NAME=VALUE"),
        (["-s", "seed=4294967295", "--seeds", "2"], "seed is 4294967296"),
        (["--preset", "nonsense"], "nonsense"),
        (["--device", "nonsense"], "nonsense"),
    ],
)
def test_a_wrong_option_is_said_before_the_work(mvtec, tmp_path, options, said):
    out = tmp_path / "out"
    line = refused("benchmark", "mvtec", mvtec, "-o", out, *TINY, "--device", "cpu", *options)
    assert said in line
    assert not list(out.glob("results/*"))


def test_the_papers_preset_takes_the_papers_size_unless_another_is_given(mvtec, tmp_path):
    small = ("epochs=1", "passes_per_epoch=1", "padding=zeros", "blocks=1", "strides=32")
    options = [f"-s{text}" for text in (*SETTINGS[:2], *small)]
    command = ["benchmark", "mvtec", mvtec, "--classes", "carpet", "--preset", "paper", *options]
    for number, (size, more) in enumerate((("512x512", []), ("64x64", ["-s", "size=64x64"]))):
        out = tmp_path / str(number)
        result = run(*command, "-o", out, "--seeds", "1", "--device", "cpu", *more)
        assert result.exit_code == 0, result.output
        assert told(out)["classes"]["carpet"]["size"] == size
        assert told(out)["settings"]["input_layer"] == "raw"
        assert told(out)["paper_sizes"] == (not more)
        assert told(out)["classes"]["carpet"]["promised_rate"] == [None]  # none are held out


@pytest.fixture(scope="module")
def longer(mvtec, tmp_path_factory):
    """Both classes with as many steps as it takes to be interrupted, undisturbed."""
    out = tmp_path_factory.mktemp("longer")
    assert run("benchmark", "mvtec", mvtec, "-o", out, *ONCE, "-s", "steps=10").exit_code == 0
    return told(out)


@pytest.mark.parametrize("kind", ["SIGINT", "SIGKILL"])
@pytest.mark.skipif(os.name == "nt", reason="no signals to another process")
def test_what_was_done_is_kept_when_it_is_stopped(mvtec, longer, tmp_path, kind):
    out = tmp_path / "out"
    arguments = ["benchmark", "mvtec", mvtec, "-o", out, *ONCE, "-s", "steps=10"]
    process = start(*arguments, before=SLOWLY)
    deadline = time.monotonic() + 300
    second = out / "work" / "carpet-0" / "level-8.safetensors"
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, kind))
    _, said = process.communicate(timeout=120)
    assert second.exists(), said
    assert b"Traceback" not in said
    if kind == "SIGINT":
        assert process.returncode == 130
        assert b"the same command goes on from there" in said
    assert told(out)["classes"].keys() == {"bottle"}

    again = run(*arguments)
    assert again.exit_code == 0
    assert again.stdout.startswith("carpet, seed 0 (2 of 2)\n")
    assert not (out / "work").exists()
    assert told(out)["beside"] == longer["beside"]
