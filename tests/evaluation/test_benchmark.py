"""The benchmark: its classes, its results and its table."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest

from cflow_ad import DataError, SettingsError, evaluate, open_dataset
from cflow_ad.detector import Detector
from cflow_ad.evaluation.benchmark import (
    HEADER,
    adapt_settings,
    build_table,
    find_classes,
    measure,
    read_result,
    write_markdown,
)
from cflow_ad.evaluation.published import MVTEC_CLASSES


@pytest.fixture
def run(carpet_folder, toy_settings, toy_detector, monkeypatch, tmp_path):
    """Measure the carpet with a detector that is trained already."""
    monkeypatch.setattr(Detector, "fit", lambda *_, **__: toy_detector)
    file = tmp_path / "carpet-0.json"
    result = measure(
        "carpet",
        carpet_folder,
        toy_settings,
        file,
        training=lambda progress: None,
        evaluating=lambda done, total: None,
    )
    return result, file


def make_result(name, seed, areas=(90.0, 95.0, 80.0)):
    settings = {"backbone": "tf_efficientnet_lite0"}
    reference = [None if area is None else area - 1 for area in areas]
    return {
        "class": name, "seed": seed, "areas": areas, "reference": reference, "settings": settings
    }  # fmt: skip


def test_a_result_is_what_evaluation_gives_and_is_read_again(run, carpet_folder, toy_detector):
    result, file = run
    expected = evaluate(toy_detector, open_dataset(carpet_folder), reference=True)
    assert list(result["areas"]) == [
        100 * value for value in (expected.image.auroc, expected.pixel.auroc, expected.pixel.aupro)
    ]
    assert result["reference"].image_auroc == 100 * expected.reference.image.auroc
    again = read_result(file, toy_detector.settings)
    assert again["areas"] == list(result["areas"])
    assert again["evaluation"]["images"] == result["evaluation"]["images"]


def test_a_result_of_other_settings_is_refused_and_a_damaged_one_is_missing(run, toy_settings):
    _, file = run
    other = dataclasses.replace(toy_settings, steps=1)
    with pytest.raises(DataError, match=r"carpet-0\.json: .* other settings \(steps\)"):
        read_result(file, other)
    for text in ("", "{", "null", "[]", '{"version": "1"}'):
        file.write_text(text)
        assert read_result(file, toy_settings) is None
    assert read_result(file.with_name("none.json"), toy_settings) is None


def test_what_cannot_be_evaluated_is_known_before_the_training(carpet_folder, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(Detector, "fit", fail)
    with pytest.raises(DataError, match="no images to evaluate on"):
        measure(
            "carpet",
            carpet_folder / "train" / "good",
            None,
            carpet_folder,
            training=fail,
            evaluating=fail,
        )


def test_classes_are_found_by_their_folders(tmp_path):
    for name in ("wood", "carpet", "other"):
        (tmp_path / name).mkdir()
    assert list(find_classes(tmp_path)) == ["carpet", "wood"]
    assert find_classes(tmp_path, ["wood"]) == {"wood": tmp_path / "wood"}
    with pytest.raises(SettingsError, match="'banana' is not a class"):
        find_classes(tmp_path, ["banana"])
    with pytest.raises(DataError, match="there is no bottle"):
        find_classes(tmp_path, ["wood", "bottle"])
    with pytest.raises(DataError, match="no classes of MVTec AD"):
        find_classes(tmp_path / "wood")
    with pytest.raises(DataError, match="there is no such folder"):
        find_classes(tmp_path / "missing")


def test_a_run_has_its_seed_and_perhaps_the_papers_size(toy_settings):
    own = adapt_settings("transistor", toy_settings, 3, paper_size=False)
    assert (own.seed, own.size) == (3, toy_settings.size)
    assert adapt_settings("transistor", toy_settings, 0, paper_size=True).size == "128x128"


def test_the_table_has_every_run_the_paper_the_mean_and_the_deviation(tmp_path):
    results = [
        make_result("carpet", 0, (90.0, 95.0, None)),
        make_result("wood", 0, (96.0, 95.0, None)),
        make_result("carpet", 1, (92.0, 95.0, 80.0)),
        make_result("wood", 1, (98.0, 95.0, 80.0)),
    ]
    rows = build_table(results)
    paper = MVTEC_CLASSES["carpet"].wide_resnet50
    assert rows[0] == [
        "carpet", "0", "90.00", "89.00", f"{paper.image_auroc:.2f}", "95.00", "94.00",
        f"{paper.pixel_auroc:.2f}", "–", "–", f"{paper.aupro:.2f}",
    ]  # fmt: skip
    mean, deviation = rows[-2:]
    assert mean[2] == f"{statistics.fmean((90, 96, 92, 98)):.2f}"
    assert deviation[2] == f"{statistics.stdev((93, 95)):.2f}"
    assert mean[8] == deviation[8] == "–"
    write_markdown(tmp_path / "t.md", rows)
    lines = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == len(HEADER) + 1 for line in lines)
    write_markdown(tmp_path / "t.md", rows, ["wood, seed 2: no images", "wood, seed 3: none"])
    more = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert more[: len(lines)] == lines
    assert more[-2:] == ["- wood, seed 2: no images", "- wood, seed 3: none"]


def test_one_seed_or_seeds_with_other_classes_have_no_deviation():
    assert build_table([make_result("carpet", 0)])[-1][0] == "mean"
    assert build_table([make_result("carpet", 0), make_result("carpet", 1)])[-1][0] == "± (seeds)"
    uneven = [make_result("carpet", 0), make_result("wood", 0), make_result("wood", 1)]
    assert build_table(uneven)[-1][0] == "mean"


def test_a_result_is_json_that_others_read(run):
    values = json.loads(run[1].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert values["class"] == "carpet"
