"""`predict`: what is found, what is written, and what the exit status says."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image

from cflow_ad import Detector
from cflow_ad.cli import main
from cflow_ad.cli.common import plain_errors
from cflow_ad.data.images import image_shape
from cflow_ad.data.listing import list_images
from tests.cli.commands import refused, run, start


@pytest.fixture(scope="module")
def detector(model):
    return Detector.load(model, device="cpu")


@pytest.fixture(scope="module")
def pictures(carpet):
    """Good and defective test images, in the order of their paths."""
    return list_images(carpet / "test")


@pytest.fixture(scope="module")
def between(detector, pictures):
    """A threshold that some of the images exceed."""
    return float(np.median([prediction.score for prediction in detector.stream(pictures)]))


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Precision


def test_another_precision_is_near_and_an_unknown_one_refused(model, pictures, tmp_path):
    tables = [tmp_path / "fp32.csv", tmp_path / "bf16.csv"]
    for table, options in zip(tables, ([], ["--precision", "bf16"]), strict=True):
        run("predict", model, *pictures[:4], "--table", table, *options)
    exact, near = ([float(row["score"]) for row in rows_of(table)] for table in tables)
    assert exact != near
    np.testing.assert_allclose(near, exact, atol=0.2, rtol=0.2)
    assert "it must be fp32 or tf32 or bf16" in refused(
        "predict", model, pictures[0], "--precision", "int3"
    )


# Exit status


def test_the_exit_status_says_whether_anything_is_anomalous(model, pictures):
    none = run("predict", model, *pictures, "--threshold", 1000)
    assert (none.exit_code, none.stderr) == (0, f"anomalous: 0 of {len(pictures)} images\n")
    assert run("predict", model, *pictures, "--threshold", -1).exit_code == 1
    assert run("predict", model, *pictures, "--threshold", -1, "--exit-zero").exit_code == 0


def test_an_unreadable_image_is_listed_and_the_others_are_done(model, pictures, tmp_path):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(pictures[0].read_bytes()[:300])
    table = tmp_path / "scores.csv"
    names = [pictures[0], broken, pictures[1], missing]
    result = run("predict", model, *names, "--threshold", 1000, "--table", table)
    assert result.exit_code == 3
    assert [row["path"] for row in rows_of(table)] == [str(path) for path in pictures[:2]]
    skipped = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2
    assert str(broken) in skipped[0]
    assert str(missing) in skipped[1]


def test_where_no_image_can_be_read_nothing_is_done(model, tmp_path):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(b"no image")
    assert str(broken) in refused("predict", model, broken, "--exit-zero")
    result = run("predict", model, broken, missing)
    assert result.exit_code == 2
    *skipped, last = result.stderr.splitlines()
    assert all(str(p) in line for p, line in zip((broken, missing), skipped, strict=True))
    assert last.startswith("error: none of the 2 images")


# Which images


def test_a_folder_a_pattern_and_its_files_are_the_same(model, carpet):
    folder = carpet / "test" / "cut"
    files = list_images(folder)
    shown = [
        run("predict", model, *names, "--exit-zero").stdout
        for names in ([folder], [folder / "*.png"], files, [*files, folder])
    ]
    assert len(set(shown)) == 1
    assert len(shown[0].splitlines()) == len(files)


def test_sub_folders_are_looked_into(model, carpet, pictures):
    result = run("predict", model, carpet / "test", "--exit-zero")
    assert len(result.stdout.splitlines()) == len(pictures)
    by_pattern = run("predict", model, carpet / "test" / "**" / "*.png", "--exit-zero")
    assert by_pattern.stdout == result.stdout


def test_a_pattern_that_fits_nothing_is_named(model, tmp_path):
    assert "*.png" in refused("predict", model, tmp_path / "*.png")


# What is written


def test_a_line_for_each_image_has_verdict_score_and_path(model, detector, pictures, between):
    result = run("predict", model, *pictures, "--threshold", between, "--exit-zero")
    for line, path in zip(result.stdout.splitlines(), pictures, strict=True):
        prediction = detector.predict(path)
        verdict, score = line.split()[:2]
        assert verdict == ("anomalous" if prediction.score > between else "good")
        assert float(score) == pytest.approx(prediction.score, abs=2e-3)
        assert str(path) in line


def test_tables_hold_what_the_detector_says(model, detector, pictures, between, tmp_path):
    arguments = ("predict", model, *pictures, "--threshold", between, "--exit-zero")
    assert run(*arguments, "--table", tmp_path / "new" / "t.csv").exit_code == 0
    assert run(*arguments, "--table", tmp_path / "t.jsonl").exit_code == 0
    of_csv = rows_of(tmp_path / "new" / "t.csv")
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    for path, row, line in zip(pictures, of_csv, lines, strict=True):
        prediction, values = detector.predict(path), json.loads(line)
        assert row["path"] == values["path"] == str(path)
        assert float(row["score"]) == values["score"] == pytest.approx(prediction.score, rel=1e-4)
        assert row["is_anomalous"] == str(values["is_anomalous"]).lower()
        assert bool(values["regions"]) == values["is_anomalous"]


def test_no_map_is_made_unless_it_is_needed(model, pictures, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a map was made")

    monkeypatch.setattr("cflow_ad.scoring.prediction.compute_anomaly_map", fail)
    assert run("predict", model, *pictures, "--table", tmp_path / "t.csv").exit_code < 2
    with pytest.raises(AssertionError, match="a map was made"):
        run("predict", model, *pictures, "--table", tmp_path / "t.jsonl")


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_maps_and_masks_are_the_detectors(model, detector, pictures, between, tmp_path, kind):
    some = pictures[::3]
    run("predict", model, *some, "--threshold", between, "-o", tmp_path, "--maps", kind,
        "--masks", "--overlays")  # fmt: skip
    for path in some:
        expected = detector.predict(path).anomaly_map
        name = path.relative_to(path.parents[1]).with_suffix("")
        file = (tmp_path / "maps" / name).with_suffix(f".{kind}")
        if kind == "npy":
            values = np.load(file)
            tolerance = 1e-4
        else:
            values = np.asarray(Image.open(file)) / 1000
            tolerance = 1e-3
        np.testing.assert_allclose(values, expected, atol=tolerance, rtol=1e-4)
        mask = np.asarray(Image.open((tmp_path / "masks" / name).with_suffix(".png")))
        assert set(np.unique(mask)) <= {0, 255}
        prediction = dataclasses.replace(detector.predict(path), threshold=between)
        assert (mask > 0).any() == prediction.is_anomalous
        assert np.mean((mask > 0) != prediction.mask) < 0.001
        assert image_shape((tmp_path / "overlays" / name).with_suffix(".png")) == (64, 64)


def test_no_result_overwrites_an_image(model, pictures, tmp_path):
    """Nor are earlier results taken for images, where they lie among them."""
    image = tmp_path / "day" / "masks" / "1.png"
    image.parent.mkdir(parents=True)
    shutil.copy(pictures[0], image)
    before = image.read_bytes()
    for images, options in (
        (image, ["--picture", image]),
        (image.parent, ["--output", tmp_path / "day", "--masks"]),
        (tmp_path / "day", ["--output", tmp_path / "day", "--masks"]),
    ):
        assert f"{image} is one of the images" in refused("predict", model, images, *options)
    assert image.read_bytes() == before


def test_no_result_overwrites_another(model, pictures, tmp_path):
    for name in ("a/0.png", "b/0.png", "b/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures[0], tmp_path / "in" / name)
    Image.open(pictures[0]).save(tmp_path / "in" / "b" / "x.jpg")
    run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--masks")
    assert len(list_images(tmp_path / "out" / "masks")) == 4


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_drawn(model, pictures, tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    run("predict", model, *pictures[:3], "--picture", path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--masks"], "--output"),
        (["--maps", "gif", "-o", "out"], "gif"),
        (["--table", "scores.xlsx"], ".csv"),
        (["--picture", "picture.bmp"], ".svg"),
    ],
)
def test_options_that_do_not_go_together_are_named(model, pictures, options, said):
    assert said in refused("predict", model, pictures[0], *options)


@pytest.mark.parametrize("threshold", ["nan", "inf", "high"])
def test_a_threshold_that_is_no_number_is_a_usage_error(model, pictures, threshold):
    result = run("predict", model, pictures[0], "--threshold", threshold)
    assert result.exit_code == 2
    assert "--threshold" in result.stderr


def test_wrong_paths_are_known_before_the_work(model, pictures, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder.png"
    file.write_text("")
    folder.mkdir()
    (folder / "masks").write_text("")
    for options in (
        ["-o", file, "--masks"],
        ["-o", folder, "--masks"],
        ["-o", tmp_path / "out"],
        ["--picture", folder],
    ):
        result = run("predict", model, pictures[0], *options)
        assert result.exit_code == 2
        assert str(options[1]) in result.stderr
        assert result.stdout == ""
    assert run("predict", model, pictures[0], "--picture", tmp_path / "new" / "p.png").exit_code < 2
    assert (tmp_path / "new" / "p.png").exists()


def test_a_picture_that_cannot_be_written_is_known_before_the_work(
    model, pictures, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "p.png"
    said = f"{below}: {tmp_path / 'file'} is a file, not a folder; choose another path"
    assert said in refused("predict", model, pictures[0], "--picture", below)
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)  # root may write anywhere
    result = run("predict", model, pictures[0], "--picture", tmp_path / "p.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path / 'p.png'}: no permission to write in {tmp_path}" in result.stderr
    closed = tmp_path / "masks"
    closed.mkdir()
    result = run("predict", model, pictures[0], "-o", tmp_path, "--masks")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"no permission to write in {closed}" in result.stderr


def test_regions_and_maps_are_exactly_the_detectors(model, detector, pictures, between, tmp_path):
    arguments = ["predict", model, *pictures, "--threshold", between, "--exit-zero"]
    table = tmp_path / "t.jsonl"
    one_by_one = ["--batch-size", 1, "--table", table, "-o", tmp_path, "--maps", "npy"]
    assert run(*arguments, *one_by_one).exit_code == 0
    for path, line in zip(pictures, table.read_text("utf-8").splitlines(), strict=True):
        prediction = dataclasses.replace(detector.predict(path), threshold=between)
        values = json.loads(line)
        assert values["score"] == prediction.score
        assert values["threshold"] == between
        assert values["regions"] == [region.to_dict() for region in prediction.regions]
        name = path.relative_to(path.parents[1]).with_suffix(".npy")
        values = np.load(tmp_path / "maps" / name)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, prediction.anomaly_map)


def test_results_are_named_after_their_images(model, pictures, tmp_path):
    names = ("a/0.png", "b/0.png", "b/x.png", "b/x.jpg", "b/y.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(pictures[0]).save(tmp_path / name)
    images = [tmp_path / name for name in names]
    run("predict", model, *images, "-o", tmp_path / "out", "--masks")
    masks = tmp_path / "out" / "masks"
    made = {path.relative_to(masks).as_posix() for path in list_images(masks)}
    assert made == {"a/0.png", "b/0.png", "b/x.png.png", "b/x.jpg.png", "b/y.png"}


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_what_is_done_is_kept_when_it_is_stopped(model, pictures, tmp_path):
    table = tmp_path / "t.csv"
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3000):
        (images / f"{number}.png").symlink_to(pictures[0])
    process = start("predict", model, images, "--table", table)
    shown = [process.stdout.readline() for _ in range(10)]  # there is work to interrupt
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b"stopped\n"
    shown += output.splitlines()
    assert len(shown) < 3000
    assert len(shown) - len(rows_of(table)) in (0, 1)  # the line comes before the row


def test_a_closed_output_is_no_error(monkeypatch):
    replaced = []
    fake = SimpleNamespace(
        devnull=os.devnull, O_WRONLY=0, open=lambda *_: 0, dup2=lambda *of: replaced.append(of)
    )
    monkeypatch.setattr("cflow_ad.cli.common.os", fake)
    with pytest.raises(typer.Exit) as done, plain_errors():
        raise BrokenPipeError
    assert done.value.exit_code == 0
    assert replaced == [(0, sys.stdout.fileno())]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_an_image_counts_once_however_it_is_named(model, pictures, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    shutil.copy(pictures[0], tmp_path / "2.png")
    (tmp_path / "link.png").symlink_to("2.png")  # another name, so another image
    monkeypatch.chdir(tmp_path)
    names = ["2.png", "./2.png", "a/../2.png", tmp_path / "2.png", "2*.png", "link.png"]
    result = run("predict", model, *names, "--threshold", 1000)
    assert [line.split()[2] for line in result.stdout.splitlines()] == ["2.png", "link.png"]
    assert result.stderr == "anomalous: 0 of 2 images\n"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_and_doubled_suffixes_keep_results_apart(model, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("x.png", "x.jpg", "x.jpg.png"):
        Image.open(pictures[0]).save(folder / name)
    for name in ("link1.png", "link2.png"):
        (folder / name).symlink_to("x.png")
    run("predict", model, folder, "-o", tmp_path / "out", "--masks")
    made = {path.name for path in list_images(tmp_path / "out" / "masks")}
    assert made == {"x.png.png", "x.jpg.png", "x.jpg.png.png", "link1.png", "link2.png"}


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_name_may_hold_any_bytes(model, pictures, tmp_path, monkeypatch):
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        shutil.copy(os.fsencode(pictures[0]), odd)
    except OSError:
        pytest.skip("not on this file system")
    table, output = tmp_path / "t.csv", io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="utf-8"))
    options = ("--threshold", "1000", "--table", str(table), "--picture", str(tmp_path / "p.svg"))
    monkeypatch.setattr("sys.argv", ["cflow-ad", "predict", str(model), os.fsdecode(odd), *options])
    with pytest.raises(SystemExit) as done:
        main()
    sys.stdout.flush()
    assert done.value.code == 0
    assert b"udcff.png" in output.getvalue()
    assert b"/\xff.png" in table.read_bytes()
