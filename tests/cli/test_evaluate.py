"""`evaluate`: the numbers that are written are those of the scores that are written."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from cflow_ad import Detector
from cflow_ad.data.listing import list_images
from cflow_ad.store.model_file import read_model, write_model
from tests.cli.commands import refused, run


@pytest.fixture(scope="module")
def measured(model, carpet, tmp_path_factory):
    """What `evaluate` printed, and the folder that it wrote; the model file stays as it is."""
    folder = tmp_path_factory.mktemp("results") / "evaluation"
    before = model.read_bytes()
    result = run("evaluate", model, carpet, "-o", folder)
    assert result.exit_code == 0, result.output
    assert model.read_bytes() == before
    return result.stdout, folder


@pytest.fixture
def results(measured):
    return measured[1]


@pytest.fixture
def copy(carpet, tmp_path):
    """The carpet, to be spoilt."""
    return shutil.copytree(carpet, tmp_path / "copy")


def fail(*_, **__):
    raise AssertionError("the work began")


def metrics(folder):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads((folder / "metrics.json").read_text("utf-8"), parse_constant=refuse)


def scores(folder):
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_test_images_that_were_trained_on_are_told(model, results, copy, tmp_path):
    assert metrics(results)["trained_on"] == []
    known = shutil.copy(list_images(copy / "train" / "good")[0], copy / "test" / "good" / "x.png")
    result = run("evaluate", model, copy, "-o", tmp_path / "out")
    assert "trained on 1 of these test images, such as test/good/x.png" in result.stderr
    assert metrics(tmp_path / "out")["trained_on"] == [str(known)]
    assert "trained on 1 of these" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_everything_is_written(results):
    names = {path.name for path in results.iterdir()}
    assert names == {"metrics.json", "scores.csv", "picture.png", "picture.svg", "report.html"}


def test_the_metrics_are_those_of_the_scores(results):
    rows, told = scores(results), metrics(results)
    values = [float(row["score"]) for row in rows]
    defective = [row["label"] != "good" for row in rows]
    assert told["image"]["auroc"] == pytest.approx(roc_auc_score(defective, values))
    assert told["image"]["average_precision"] == pytest.approx(
        average_precision_score(defective, values)
    )
    flagged = [row["is_anomalous"] == "true" for row in rows]
    assert flagged == [value > told["threshold"] for value in values]
    both = list(zip(flagged, defective, strict=True))
    confusion = told["confusion"]
    assert confusion["tp"] == both.count((True, True))
    assert confusion["fp"] == both.count((True, False)) == told["false_alarms"]["count"]
    assert confusion["fn"] == both.count((False, True))
    assert confusion["tn"] == both.count((False, False))
    for name, of_defect in told["per_defect"].items():
        some = [i for i, row in enumerate(rows) if row["label"] in ("good", name)]
        expected = roc_auc_score([defective[i] for i in some], [values[i] for i in some])
        assert of_defect["image"]["auroc"] == pytest.approx(expected)
        assert of_defect["n_images"] == 2


def test_the_table_shows_every_defect_and_the_false_alarms(measured):
    shown, folder = measured
    assert str(folder / "report.html") in shown.splitlines()
    for name in ("color", "cut", "hole", "metal_contamination", "thread", "all"):
        assert name in shown
    assert re.search(r"\d false alarms? on 4 good images", shown)


def test_the_papers_scores_stand_beside_its_own(model, carpet, tmp_path, measured):
    result = run("evaluate", model, carpet, "-o", tmp_path / "both", "--reference")
    assert result.exit_code == 0
    shown = [line.split() for line in result.stdout.splitlines() if line.strip()]
    told = json.loads((tmp_path / "both" / "metrics.json").read_text())
    (row,) = (line for line in shown if line[0] == "reference" and line[1] != "scored")
    assert row[-1] == f"{100 * told['reference']['pixel']['aupro']:.2f}"
    plain = json.loads((measured[1] / "metrics.json").read_text())
    assert plain["reference"] is None
    assert told["image"] == plain["image"]


def test_good_images_alone_have_no_areas(model, copy, tmp_path):
    for folder in (copy / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    shutil.rmtree(copy / "ground_truth")
    assert run("evaluate", model, copy, "-o", tmp_path / "out", "--best-f1").exit_code == 0
    told = metrics(tmp_path / "out")
    assert told["pixel"] is None
    assert told["image"]["auroc"] is None
    assert told["false_alarms"]["trials"] == 4


def test_an_unreadable_image_stops_it_or_is_listed(model, copy, tmp_path):
    broken = copy / "test" / "cut" / "000.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert str(broken) in refused("evaluate", model, copy, "-o", tmp_path / "out")
    result = run("evaluate", model, copy, "-o", tmp_path / "out", "--skip-unreadable")
    assert result.exit_code == 3
    assert str(broken) in result.stderr
    assert metrics(tmp_path / "out")["skipped"][0]["path"] == str(broken)
    assert len(scores(tmp_path / "out")) == 13


def test_a_mask_of_another_size_is_named(model, copy, tmp_path):
    mask = copy / "ground_truth" / "hole" / "001_mask.png"
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(mask)
    said = refused("evaluate", model, copy, "-o", tmp_path / "out")
    assert str(mask) in said
    assert "10 x 12" in said


def test_a_mask_without_an_image_is_named(model, copy, tmp_path):
    (copy / "test" / "hole" / "001.png").unlink()
    assert "001_mask.png" in refused("evaluate", model, copy, "-o", tmp_path / "out")


def test_the_picture_may_be_chosen_among_the_test_images(model, carpet, tmp_path):
    one, other = carpet / "test" / "cut" / "001.png", carpet / "train" / "good" / "000.png"
    result = run("evaluate", model, carpet, "-o", tmp_path, "--picture", one, "--best-f1")
    assert result.exit_code == 0
    assert str(other) in refused("evaluate", model, carpet, "-o", tmp_path, "--picture", other)


def test_a_folder_without_test_images_is_said(model, carpet, tmp_path):
    said = refused("evaluate", model, carpet / "train" / "good", "-o", tmp_path / "out")
    assert "no images to evaluate on" in said


def test_the_threshold_is_the_models_own(model, results):
    assert Detector.load(model, device="cpu").threshold == metrics(results)["threshold"]


def test_the_best_f1_is_that_of_the_scores(results):
    rows, told = scores(results), metrics(results)
    defective = [row["label"] != "good" for row in rows]
    precision, recall, _ = precision_recall_curve(defective, [float(row["score"]) for row in rows])
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert told["image"]["best_f1"] == pytest.approx(best)
    above = [float(row["score"]) >= told["image"]["best_f1_threshold"] for row in rows]
    assert f1_score(defective, above) == pytest.approx(best)


def test_a_set_where_nothing_can_be_read_is_said(model, copy, tmp_path):
    for path in list_images(copy / "test"):
        path.write_bytes(b"")
    said = refused("evaluate", model, copy, "-o", tmp_path / "out", "--skip-unreadable")
    assert "none of the 14 test images could be read" in said
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_cannot_be_in_the_picture(model, copy, tmp_path):
    broken = copy / "test" / "cut" / "000.png"
    broken.write_bytes(b"")
    options = ["-o", tmp_path / "out", "--skip-unreadable", "--picture", broken]
    assert f"{broken}: could not be read" in refused("evaluate", model, copy, *options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_is_known_before_the_work(model, carpet, tmp_path, monkeypatch):
    monkeypatch.setattr("cflow_ad.evaluation.evaluate.evaluate", fail)
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused("evaluate", model, carpet, "-o", tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)  # root may write anywhere
    assert "no permission" in refused("evaluate", model, carpet, "-o", tmp_path / "new")


def test_a_model_without_thresholds_leaves_no_folder(model, carpet, tmp_path):
    metadata, tensors = read_model(model)
    bare = tmp_path / "bare.safetensors"
    write_model(bare, tensors, metadata | {"calibration": None})
    assert "not calibrated yet" in refused("evaluate", bare, carpet)
    assert list(tmp_path.iterdir()) == [bare]


def test_markup_in_names_is_not_interpreted_and_results_lie_beside_the_model(model, copy, tmp_path):
    path = tmp_path / "m.v2.safetensors"
    shutil.copy(model, path)
    for folder in ("test", "ground_truth"):
        (copy / folder / "cut").rename(copy / folder / "[red]cut :warning:")
    result = run("evaluate", path, copy)
    assert result.exit_code == 0
    assert "[red]cut :warning:" in result.stdout
    assert "[red]cut :warning:" in metrics(tmp_path / "m.v2-evaluation")["per_defect"]
