"""An update is a training on old and new images; it says what to do where the old ones are gone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from cflow_ad import DataError, Detector
from cflow_ad.fitting.good_images import find_good_images
from cflow_ad.fitting.trained_images import join_images
from tests.cli.commands import TINY, refused, run

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture
def lots(carpet_folder, tmp_path):
    """Two lots of good images, and a model of the first."""
    good = sorted((carpet_folder / "train" / "good").iterdir())
    for name, images in (("first", good[:6]), ("second", good[6:])):
        (tmp_path / name).mkdir()
        for image in images:
            shutil.copy(image, tmp_path / name)
    model = tmp_path / "m.safetensors"
    assert run("train", tmp_path / "first", "-o", model, *TINY).exit_code == 0
    return tmp_path


def test_an_update_is_the_model_of_old_and_new(lots, toy_settings):
    first = sorted((lots / "first").iterdir())
    second = sorted((lots / "second").iterdir())
    before = Detector.fit([*first], toy_settings, device="cpu")
    updated = before.update(lots / "second")
    anew = Detector.fit([*first, *second], toy_settings, device="cpu")
    for image in (first[0], second[-1]):
        assert updated.predict(image).score == pytest.approx(anew.predict(image).score, abs=1e-5)
    assert updated.threshold == pytest.approx(anew.threshold, abs=1e-5)
    assert updated.training["n_images"] == 12
    with pytest.raises(DataError, match="trained on these images already"):
        updated.update(lots / "second")


def test_the_image_that_others_are_aligned_to_is_known_again(lots, toy_settings):
    aligned = dataclasses.replace(toy_settings, align="shift")
    before = Detector.fit(lots / "first", aligned, device="cpu")
    before.save(lots / "aligned.safetensors")
    updated = Detector.load(lots / "aligned.safetensors", weights="random").update(lots / "second")
    assert Path(updated.training["aligned_to"]).name == before.training["aligned_to"]
    assert updated.calibration.n_images == 11


def test_features_of_another_order_are_not_continued_with(lots):
    """After a stopped update the files of the features name their images by number."""
    more = find_good_images(lots / "second")
    turned = dataclasses.replace(
        more, sources=more.sources[::-1], names=more.names[::-1], hashes=more.hashes[::-1]
    )
    training = {
        "dataset": "first",
        "excluded": [],
        "hashes": {"trained_on": [], "excluded": []},
    }
    first, second = (join_images([], images, training) for images in (more, turned))
    assert first.fingerprint != second.fingerprint


def test_old_images_are_found_by_content(lots):
    model, new = lots / "m.safetensors", lots / "n.safetensors"
    (lots / "first").rename(lots / "moved")
    said = refused("update", model, lots / "second")
    assert "6 of the 6 images that the model was trained on are not in" in said
    assert "--old FOLDER" in said
    assert "cflow-ad calibrate" in said
    for number, image in enumerate(sorted((lots / "moved").iterdir())):
        image.rename(lots / "moved" / f"other {number}.png")
    before = model.read_bytes()
    result = run("update", model, lots / "second", "--old", lots / "moved", "-o", new)
    assert result.exit_code == 0, result.output
    assert f"{new}: trained on 12 images (6 before)" in result.stdout
    assert model.read_bytes() == before
    assert {path.name for path in lots.iterdir() if path.is_file()} == {model.name, new.name}
    assert Detector.load(new).settings == Detector.load(model).settings


def test_a_changed_image_is_not_an_old_one(lots):
    changed = next((lots / "first").iterdir())
    shutil.copy(next((lots / "second").iterdir()), changed)
    assert "1 of the 6 images" in refused("update", lots / "m.safetensors", lots / "second")


def test_excluded_images_stay_out(lots):
    out = sorted((lots / "first").iterdir())[0]
    model = lots / "m.safetensors"
    assert run("train", lots / "first", "-o", model, *TINY, "--exclude", out.name).exit_code == 0
    shutil.copy(out, lots / "second")
    assert run("update", model, lots / "second").exit_code == 0
    assert Detector.load(model).training["n_images"] == 11


def test_a_region_of_interest_stays(lots, toy_settings):
    inside = np.zeros((96, 96), bool)
    inside[20:70, 20:70] = True
    before = Detector.fit(lots / "first", toy_settings, roi=inside, device="cpu")
    updated = before.update(lots / "second")
    image = next((lots / "first").iterdir())
    assert (updated.predict(image).anomaly_map[~inside] == 0).all()


def test_a_model_of_images_from_memory_says_so(toy_detector, lots):
    with pytest.raises(DataError, match="images from memory; train a new model"):
        toy_detector.update(lots / "second")
