"""`benchmark mvtec`: what is printed and written, exit statuses, and skipping what is done."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.commands import refused, run

SETTINGS = ("backbone=test_efficientnet", "weights=random", "size=64x64", "steps=2")
TINY = [f"-s{text}" for text in (*SETTINGS, "strides=8,16", "batch_size=64")]
ONCE = [*TINY, "--seeds", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def mvtec(carpet, tmp_path_factory):
    """Two small classes; not to be changed."""
    folder = tmp_path_factory.mktemp("mvtec")
    for name in ("bottle", "carpet"):
        shutil.copytree(carpet, folder / name)
    return folder


@pytest.fixture(scope="module")
def measured(mvtec, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    result = run("benchmark", "mvtec", mvtec, "-o", out, *ONCE)
    assert result.exit_code == 0, result.output
    return result, out


def test_every_run_is_printed_and_written(measured):
    result, out = measured
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:2] == ["bottle, seed 0", "carpet, seed 0"]
    values = json.loads((out / "carpet-0.json").read_text())
    (row,) = (line.split() for line in lines if line.split()[:2] == ["carpet", "0"])
    assert row[2] == f"{values['areas'][0]:.2f}"
    assert row[4] == "98.73"
    assert any(line.split()[:1] == ["mean"] for line in lines)
    assert all(len(line) <= 80 for line in lines if str(out) not in line)
    assert lines[-1] == str(out / "results.md")
    assert f"| {' | '.join(row)} |" in (out / "results.md").read_text(encoding="utf-8")


def test_what_is_done_is_skipped_and_other_settings_are_refused(mvtec, measured, tmp_path):
    result, out = measured
    out = shutil.copytree(out, tmp_path / "out")
    (out / "bottle-0.json").unlink()
    again = run("benchmark", "mvtec", mvtec, "-o", out, *ONCE)
    assert again.stdout.splitlines()[0] == "bottle, seed 0"
    assert "carpet, seed 0" not in again.stdout
    assert again.stdout.splitlines()[1:-1] == result.stdout.splitlines()[2:-1]
    line = refused("benchmark", "mvtec", mvtec, "-o", out, *ONCE, "-s", "steps=3")
    assert "bottle-0.json: measured with other settings (steps)" in line


def test_a_class_that_fails_is_reported_and_the_status_shows_it(mvtec, tmp_path):
    data = shutil.copytree(mvtec, tmp_path / "data")
    broken = data / "bottle" / "train" / "good" / "003.png"
    broken.write_bytes(b"")
    result = run("benchmark", "mvtec", data, "-o", tmp_path / "out", *ONCE)
    assert result.exit_code == 3
    assert f"failed: {broken}" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "carpet-0.json",
        "results.md",
    ]
    table = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert f"\n\nFailed:\n\n- bottle, seed 0: {broken}: " in table


def test_where_every_class_fails_there_is_no_table(tmp_path):
    (tmp_path / "wood").mkdir()
    result = run("benchmark", "mvtec", tmp_path, "-o", tmp_path / "out", *ONCE)
    assert result.exit_code == 3
    assert "mean" not in result.stdout
    written = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert written.startswith("Failed:\n\n- wood, seed 0: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "bottle,banana"], "'banana' is not a class of MVTec AD"),
        (["--classes", ""], "'' is not a class of MVTec AD"),
        (["--classes", "wood"], "there is no wood"),
        (["-s", "steps=many"], "steps is 'many'"),
        (["-s", "steps"], "write NAME=VALUE"),
        (["-s", "seed=4294967295", "--seeds", "2"], "seed is 4294967296"),
        (["--preset", "nonsense"], "nonsense"),
        (["--device", "nonsense"], "nonsense"),
        (["-o", __file__], f"{__file__}: the folder cannot be made (File exists)"),
    ],
)
def test_a_wrong_option_is_reported_before_the_work(mvtec, tmp_path, options, said):
    out = tmp_path / "out"
    line = refused("benchmark", "mvtec", mvtec, "-o", out, *TINY, "--device", "cpu", *options)
    assert said in line
    assert not list(out.glob("*.json"))


def test_a_folder_that_is_missing_is_named(tmp_path):
    line = refused("benchmark", "mvtec", tmp_path / "missing", "-o", tmp_path / "out")
    assert f"{tmp_path / 'missing'}: there is no such folder" in line


@pytest.mark.parametrize(("more", "size"), [([], "512x512"), (["-s", "size=64x64"], "64x64")])
def test_the_papers_preset_takes_the_papers_size_unless_one_is_given(
    mvtec, tmp_path, monkeypatch, more, size
):
    seen = []
    monkeypatch.setattr(
        "cflow_ad.evaluation.benchmark.measure", lambda *run, **_: seen.append(run[2])
    )
    command = ["benchmark", "mvtec", mvtec, "--classes", "carpet", "--preset", "paper", *more]
    assert run(*command, "-o", tmp_path, "-s", "paper.epochs=1").exit_code == 0
    assert [(each.seed, each.size) for each in seen] == [(seed, size) for seed in range(3)]
    assert seen[0].paper.epochs == 1
