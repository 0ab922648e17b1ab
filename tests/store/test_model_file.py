"""A model file holds everything, runs nothing, and says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from cflow_ad import CalibrationWarning, Detector, ModelFileError, WeightsError
from cflow_ad.cflow import weights
from cflow_ad.cflow.weights import PackagedWeights
from cflow_ad.store.model_file import SCHEMA, check_writable, read_metadata, read_model, write_model
from tests.trap import Trap

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.ones(())}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path, toy_detector):
    toy_detector.save(path)
    return path


def rewrite(path, change_tensors=None, **changes):
    """Change what a model file holds, leaving it a sound safetensors file."""
    metadata, tensors = read_model(path)
    if change_tensors is not None:
        change_tensors(tensors)
    text = json.dumps({**metadata, **changes})
    path.write_bytes(safetensors.torch.save(tensors, metadata={"cflow_ad": text}))


def refused(path, match="."):
    """The error of loading a file, which has to name it."""
    with pytest.raises(ModelFileError, match=match) as caught:
        Detector.load(path, device="cpu")
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same(one, other, image):
    """Both have the same score and map of an image."""
    first, second = one.predict(image), other.predict(image)
    assert first.score == pytest.approx(second.score, rel=1e-5)
    np.testing.assert_allclose(first.anomaly_map, second.anomaly_map, rtol=1e-5, atol=1e-5)


# There and back


def test_tensors_and_metadata_come_back(path):
    metadata = {"text": "é\n", "list": [1, 2.5, None], "nested": {"yes": True}}
    write_model(path, TENSORS, metadata)
    said, tensors = read_model(path)
    assert said == {"schema": SCHEMA, **metadata}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
    assert read_metadata(path) == said


def test_layout_in_memory_does_not_matter(path):
    image = torch.arange(48.0).reshape(1, 3, 4, 4)
    tensors = {
        "transposed": TENSORS["a"].T,
        "expanded": torch.ones(1).expand(3),
        "last": image.to(memory_format=torch.channels_last),
    }
    write_model(path, tensors, {})
    found = read_model(path)[1]
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_detector_comes_back(saved, toy_detector, images):
    loaded = Detector.load(saved, device="cpu")
    assert loaded.info() == toy_detector.info()
    assert loaded.settings == toy_detector.settings
    assert loaded.calibration == toy_detector.calibration
    ours, theirs = toy_detector.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for image in images[:3]:
        assert_same(loaded, toy_detector, image)
    assert not any(value.requires_grad for value in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize(
    "method",
    [
        {"permutation": "soft", "wide_subnets": True, "place_means": False, "clamp": 0.5},
        {"whiten": False, "place_scales": 0.0, "join": False, "average": ()},
        {
            "positions": "absolute",
            "place_means": False,
            "place_scales": 0.0,
            "position_channels": 0,
            "image_score": "peak",
        },
    ],
)
def test_a_detector_of_any_method_comes_back(path, toy_settings, images, method):
    settings = dataclasses.replace(
        toy_settings,
        steps=0,
        resize="stretch",
        size="32x64",
        method=dataclasses.replace(toy_settings.method, **method),
    )
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images[:3], settings, device="cpu")
    for bundle in (False, True):
        detector.save(path, bundle=bundle)
        assert_same(Detector.load(path, device="cpu"), detector, images[5])


def test_saving_twice_gives_the_same_bytes(saved, tmp_path, toy_detector):
    toy_detector.save(tmp_path / "again.safetensors")
    assert saved.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_model_is_one_file_made_as_others_are(tmp_path, toy_detector):
    """With its folder where there is none, and readable by whoever reads the user's files."""
    path = tmp_path / "new" / "folder" / "model.safetensors"
    toy_detector.save(path)
    assert list(path.parent.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


# The encoder's weights


def test_without_the_encoders_weights_a_file_is_smaller(path, tiny_detector):
    tiny_detector.save(path)
    light = path.stat().st_size
    tiny_detector.save(path, bundle=True)
    encoder = sum(v.nbytes for v in tiny_detector.model.encoder.state_dict().values())
    assert path.stat().st_size - light == pytest.approx(encoder, rel=0.05)


def test_a_bundled_file_needs_nothing_else(path, tiny_detector, images, monkeypatch):
    monkeypatch.setattr(PackagedWeights, "find", lambda self: None)
    monkeypatch.setattr(weights, "find_downloaded", lambda backbone: None)
    monkeypatch.setattr(weights, "_answers", lambda library: False)
    tiny_detector.save(path, bundle=True)
    assert_same(Detector.load(path, device="cpu"), tiny_detector, images[0])
    tiny_detector.save(path)
    with pytest.raises(WeightsError, match="--weights FILE"):
        Detector.load(path, device="cpu")


@pytest.fixture
def weights_file(tmp_path, toy_detector):
    """The toy backbone's own weights, in a file."""
    file = tmp_path / "weights.pth"
    torch.save(toy_detector.model.encoder.network.state_dict(), file)
    return file


def test_weights_are_checked_against_those_of_training(path, weights_file, toy_detector, images):
    detector = Detector(
        toy_detector.model,
        settings=dataclasses.replace(toy_detector.settings, weights=str(weights_file)),
        calibration=toy_detector.calibration,
        training={},
    )
    detector.save(path)
    assert_same(Detector.load(path, device="cpu"), detector, images[0])

    state = torch.load(weights_file)
    moved = weights_file.rename(weights_file.with_name("elsewhere.pth"))
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        Detector.load(path, device="cpu")
    assert_same(Detector.load(path, weights=str(moved), device="cpu"), detector, images[0])

    first = next(iter(state.values()))
    first[(0,) * first.ndim] += 1e-3
    torch.save(state, weights_file)
    with pytest.raises(WeightsError, match="--weights FILE") as caught:
        Detector.load(path, device="cpu")
    assert str(path) in str(caught.value)


def test_another_source_of_the_same_weights_changes_no_score(path, tmp_path, tiny_detector, images):
    """The scale of pixels belongs to the model: a file of weights does not state it."""
    tiny_detector.save(path)
    file = tmp_path / "same.pth"
    torch.save(tiny_detector.model.encoder.network.state_dict(), file)
    assert_same(Detector.load(path, weights=str(file), device="cpu"), tiny_detector, images[0])


# Files that are no models


def test_a_missing_file_is_named(path, tmp_path):
    refused(path, "no such model file")
    refused(tmp_path, "this is a folder")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_an_exported_model_is_called_so(path, suffix):
    path = path.with_suffix(suffix)
    path.write_bytes(b"\x08\x0a")
    refused(path, r"an exported model, which can only score .* name the trained model")


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 100, b"PK\x03\x04"])
def test_another_kind_of_file_is_named(path, content):
    path.write_bytes(content)
    refused(path, "damaged, or not a model file")


def test_a_safetensors_file_of_others_is_named(path):
    safetensors.torch.save_file(TENSORS, path)
    refused(path, "not of cflow-ad")
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})
    refused(path, "not of cflow-ad")


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA + 1, None, "two", [SCHEMA]])
def test_a_file_of_another_version_is_one_clear_error(saved, schema):
    rewrite(saved, schema=schema, settings=None)
    message = refused(saved, "written by another version of cflow-ad")
    assert "train it again, or install the version that wrote it" in message
    assert "\n" not in message
    with pytest.raises(ModelFileError, match="another version"):
        read_metadata(saved)


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_file_is_not_run(path, tmp_path, by_torch):
    trap = Trap(tmp_path / "sprung")
    if by_torch:
        torch.save({"state_dict": trap}, path)
    else:
        path.write_bytes(pickle.dumps(trap))
    refused(path, "damaged, or not a model file")
    assert not trap.path.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.999999])
def test_a_file_cut_short_is_named(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    refused(saved)
    saved.write_bytes(whole + b"more")
    refused(saved)


def test_random_bytes_are_named(path):
    for seed in range(50):
        path.write_bytes(random.Random(seed).randbytes(2 ** (seed % 12)))
        refused(path)


def test_a_damaged_header_is_named_or_still_fits(saved):
    """Whatever byte is hit: never an error of some other type."""
    whole = saved.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    outcomes = set()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.randrange(end)] = rng.choice(b'0123456789"{}[],:azAZ \\')
        saved.write_bytes(damaged)
        try:
            Detector.load(saved, device="cpu")
        except (ModelFileError, WeightsError) as error:
            outcomes.add(type(error))
            assert str(saved) in str(error)  # noqa: PT017 (not every damage need fail)
    assert ModelFileError in outcomes


@pytest.mark.parametrize("key", ["settings", "calibration", "encoder", "training", "bundled"])
def test_missing_metadata_is_named(saved, key):
    metadata, tensors = read_model(saved)
    del metadata[key]
    write_model(saved, tensors, metadata)
    refused(saved, key)


@pytest.mark.parametrize("key", ["settings", "calibration", "encoder"])
@pytest.mark.parametrize("value", [None, [1], 5, "text", {"colour": "red"}])
def test_metadata_of_another_kind_is_named(saved, key, value):
    if key == "calibration" and value is None:
        value = {}  # an imported model has None
    rewrite(saved, **{key: value})
    refused(saved, "damaged")


def test_an_unknown_or_impossible_setting_is_named(saved):
    settings = read_metadata(saved)["settings"]
    for wrong in (
        {"colour": "red"},
        {"steps": -1},
        {"method": {"blocks": 0}},
        {"method": None},
        {"paper": 3},
    ):
        rewrite(saved, settings={**settings, **wrong})
        refused(saved, next(iter(wrong)) if "method" not in wrong else "blocks|method")


@pytest.mark.parametrize("bundle", [False, True])
@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_tensors_that_do_not_fit_are_named(path, toy_detector, bundle, change):
    names = [
        "levels.0.density.blocks.1.gamma",
        "levels.1.location",
        "levels.1.means.tables",
        "levels.0.input_layer.matrix",
    ]
    if bundle:
        names += ["encoder.network.conv_stem.weight"]
    for name in names:
        toy_detector.save(path, bundle=bundle)

        def damage(tensors, name=name):
            assert name in tensors
            if change == "missing":
                del tensors[name]
            elif change == "foreign":
                tensors[f"{name}.more"] = torch.zeros(1)
            else:
                tensors[name] = torch.zeros(3, 1, 3)

        rewrite(path, damage)
        refused(path, "damaged")


# Writing


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(saved, toy_detector, monkeypatch, error):
    before = saved.read_bytes()
    write = Path.write_bytes

    def stop_half_way(self, content):
        write(self, content[: len(content) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", stop_half_way)
    expected = ModelFileError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        toy_detector.save(saved, bundle=True)
    assert saved.read_bytes() == before
    if isinstance(error, OSError):
        assert list(saved.parent.iterdir()) == [saved]


def test_an_open_file_is_not_changed_by_writing_a_new_one(saved, toy_detector, tmp_path):
    before, same = saved.read_bytes(), tmp_path / "same"
    same.hardlink_to(saved)
    toy_detector.save(saved, bundle=True)
    assert same.read_bytes() == before
    assert saved.read_bytes() != before


def test_a_file_that_cannot_be_written_is_named(tmp_path, toy_detector):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for path in (blocked / "model.safetensors", tmp_path):
        with pytest.raises(ModelFileError) as caught:
            toy_detector.save(path)
        assert str(path) in str(caught.value)
        with pytest.raises(ModelFileError) as caught:
            check_writable(path)
        assert str(path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [blocked]


def test_a_path_that_can_be_written_passes_and_is_left_alone(tmp_path, saved):
    before = saved.read_bytes()
    check_writable(saved)
    check_writable(tmp_path / "new" / "model.safetensors")
    assert saved.read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ModelFileError, match="no permission"):
        check_writable(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.PT2"])
def test_a_trained_model_has_no_suffix_of_an_exported_one(toy_detector, tmp_path, name):
    for write in (check_writable, toy_detector.save):
        with pytest.raises(ModelFileError, match=r"for exported models; .*model\.safetensors"):
            write(tmp_path / name)
    check_writable(tmp_path / name, exported=True)
    assert not list(tmp_path.iterdir())
