"""A checkpoint of the authors' code, imported, is the same model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad import (
    CalibrationError,
    CalibrationWarning,
    Detector,
    ModelFileError,
    SettingsError,
    WeightsError,
)
from cflow_ad.importers.authors import import_authors
from tests.cflow.freia import decoder
from tests.importers import peers
from tests.importers.conftest import trained


def assert_same_maps(detector, model, images):
    """Every level's log-likelihoods per dimension agree to 1e-4, relative to at least 1."""
    for image in images:
        ours, theirs = detector.log_likelihoods(image), model.maps(image)
        assert len(ours) == len(theirs)
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)
            assert np.ptp(expected) > 1e-3  # there is something to agree on


def refused(path, match, error=ModelFileError, **kwargs):
    with pytest.raises(error, match=match) as caught:
        import_authors(path, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_level_has_the_authors_log_likelihoods(authors, authors_file, small):
    detector = import_authors(authors_file, size="64x96", device="cpu")
    assert_same_maps(detector, authors, small[:3])
    settings, method = detector.settings, detector.settings.method
    assert settings.backbone == "resnet18.tv_in1k"
    assert (settings.strides, settings.resize, settings.smoothing) == ((8, 16, 32), "stretch", 0)
    assert (method.blocks, method.position_channels, method.permutation) == (2, 128, "soft")
    assert (method.padding, method.interpolation, method.whiten) == ("reflect", "lanczos", False)
    assert settings.folds is None  # of the images that `calibrate` is given


def test_it_is_the_same_after_save_and_load_and_needs_no_other_weights(
    authors, authors_file, small, tmp_path
):
    imported = import_authors(authors_file, size="64x96", device="cpu")
    imported.save(tmp_path / "model.safetensors")
    loaded = Detector.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.info() == imported.info()
    assert not loaded.is_calibrated
    assert_same_maps(loaded, authors, small[:1])
    with pytest.raises(CalibrationError, match=r"model\.safetensors: .*cflow-ad calibrate"):
        loaded.predict(small[0])


def test_a_calibrated_models_score_is_the_maps_maximum(authors_file, small, tmp_path):
    imported = import_authors(authors_file, size="64x96", device="cpu")
    with pytest.warns(CalibrationWarning):
        detector = imported.calibrate(small[:6])
    detector.save(tmp_path / "model.safetensors")
    loaded = Detector.load(tmp_path / "model.safetensors", device="cpu")
    prediction, again = detector.predict(255 - small[7]), loaded.predict(255 - small[7])
    assert prediction.score == prediction.anomaly_map.max() > 0
    assert again.score == prediction.score


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_are_the_deepest(authors, authors_content, small, tmp_path, levels):
    kept = authors_content["decoder_state_dict"][-levels:]
    torch.save({**authors_content, "decoder_state_dict": kept}, tmp_path / "fewer.pt")
    detector = import_authors(tmp_path / "fewer.pt", size="64x96", device="cpu")
    assert detector.settings.strides == (8, 16, 32)[-levels:]
    ours, theirs = detector.log_likelihoods(small[0]), authors.maps(small[0])[-levels:]
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def test_mobilenet_is_tapped_as_theirs_and_not_reflected(small, tmp_path):
    model = trained(peers.AuthorsMobileNet(), small, blocks=1)
    content = {
        "encoder_state_dict": model.encoder.state(),
        "decoder_state_dict": [coder.state_dict() for coder in model.coders],
    }
    torch.save(content, tmp_path / "mobile.pt")
    detector = import_authors(tmp_path / "mobile.pt", size="64x96", device="cpu")
    assert detector.settings.backbone == "mobilenet_v3_large"
    assert_same_maps(detector, model, small[:2])


def test_a_decoder_without_condition_has_none_here(small, tmp_path):
    encoder = peers.AuthorsResNet()
    coder = decoder(512, blocks=1, condition=0)
    content = {
        "encoder_state_dict": encoder.state(),
        "decoder_state_dict": [coder.state_dict()],
    }
    torch.save(content, tmp_path / "flow.pt")
    detector = import_authors(tmp_path / "flow.pt", size="64x96", device="cpu")
    assert detector.settings.method.position_channels == 0
    pyramid = encoder(peers.normalised(small[:1]))[-1:]
    [expected] = peers.likelihood_maps([coder], pyramid, condition=0)
    [ours] = detector.log_likelihoods(small[0])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


# The size, the backbone, the weights


@pytest.mark.parametrize(
    ("name", "given", "size", "is_assumed"),
    [
        ("mvtec_resnet18_freia-cflow_pl3_cb8_inp512_run0_carpet_2021.pt", None, "512", False),
        ("mvtec_resnet18_freia-cflow_pl3_cb8_inp512_run0_carpet_2021.pt", "64x96", "64x96", False),
        ("mine.pt", "128", "128", False),
        ("mine.pt", None, "256x256", True),
    ],
)
def test_the_size_is_that_given_or_named(authors_file, tmp_path, name, given, size, is_assumed):
    (tmp_path / name).symlink_to(authors_file)
    detector = import_authors(tmp_path / name, size=given, device="cpu")
    assert detector.settings.size == size
    assert bool(detector.training["assumed"]) == is_assumed


def test_the_video_sets_images_are_scaled_in_their_own_way(authors_file, tmp_path):
    path = tmp_path / "stc_resnet18_freia-cflow_pl3_cb8_inp256_run0_01.pt"
    path.symlink_to(authors_file)
    assert import_authors(path, device="cpu").model.encoder.spec.std == (0.225,) * 3


def test_a_size_that_cannot_be_is_named(authors_file):
    refused(authors_file, "multiple of 32", size="100x100")
    refused(authors_file, "size: 'wide'", SettingsError, size="wide")
    refused(authors_file, "give HEIGHTxWIDTH", SettingsError, size="native")


def test_the_encoder_can_come_from_a_file(authors, authors_content, small, tmp_path):
    path, weights = tmp_path / "bare.pt", tmp_path / "resnet18.pth"
    torch.save({"decoder_state_dict": authors_content["decoder_state_dict"]}, path)
    torch.save(authors_content["encoder_state_dict"], weights)
    detector = import_authors(path, size="64x96", weights=str(weights), device="cpu")
    assert_same_maps(detector, authors, small[:1])
    assert detector.model.encoder.spec.source == "resnet18.pth"
    assert str(path) in refused(path, "no encoder; .*--backbone")
    refused(path, "no such weights file", WeightsError, weights=str(tmp_path / "missing.pth"))


def test_weights_that_would_not_be_used_are_refused(authors_file, tmp_path):
    said = refused(
        authors_file, "holds its encoder", SettingsError, weights=str(tmp_path / "w.pth")
    )
    assert str(authors_file) in said
    assert "leave --weights out" in said


def test_without_any_encoder_the_backbones_own_weights_are_taken(
    authors, authors_content, small, tmp_path, monkeypatch
):
    path = tmp_path / "bare.pt"
    torch.save({"decoder_state_dict": authors_content["decoder_state_dict"]}, path)
    asked = []

    def download(backbone):
        asked.append(backbone)
        return authors_content["encoder_state_dict"]

    monkeypatch.setattr("cflow_ad.importers.authors.download_weights", download)
    detector = import_authors(path, backbone="resnet18.tv_in1k", size="64x96", device="cpu")
    assert asked == ["resnet18.tv_in1k"]
    assert_same_maps(detector, authors, small[:1])


def test_another_backbone_than_the_encoders_is_named(authors_file):
    said = refused(authors_file, "a resnet18, not a resnet34", backbone="resnet34")
    assert str(authors_file) in said
    assert (
        import_authors(authors_file, backbone="resnet18", device="cpu").settings.method.blocks == 2
    )


def test_a_backbone_without_the_decoders_levels_is_named(authors_content, tmp_path):
    path, weights = tmp_path / "bare.pt", tmp_path / "unknown.pth"
    torch.save({"decoder_state_dict": authors_content["decoder_state_dict"]}, path)
    torch.save({"stem": torch.zeros(3)}, weights)
    said = refused(path, "take levels of 128, 256, 512 channels", backbone="wide_resnet50_2")
    assert "512 (layer2)" in said
    refused(path, "no such model", backbone="nonsense")
    refused(path, "not recognised", weights=str(weights))
    refused(path, "not of this backbone", WeightsError, backbone="resnet18", weights=str(weights))


# Files that are no such checkpoints


def test_what_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "lost.pt") in refused(tmp_path / "lost.pt", "no such file")
    refused(tmp_path, "this is a folder")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_damaged_file_is_named(authors_file, tmp_path, share):
    path = tmp_path / "cut.pt"
    whole = authors_file.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert str(path) in refused(path, "damaged, or not a checkpoint")


@pytest.mark.parametrize("content", [b"hello, world", b"<!doctype html>\n", bytes(range(256))])
def test_another_kind_of_file_is_named(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    said = refused(path, "not a checkpoint")
    assert str(path) in said
    assert "weights_only" not in said


@pytest.mark.parametrize("place", ["encoder_state_dict", "decoder_state_dict", "more"])
def test_pickled_objects_are_refused_and_not_run(authors_content, tmp_path, place):
    path = tmp_path / "trap.pt"
    trap = peers.Trap(tmp_path / "sprung")
    torch.save({**authors_content, place: [trap]}, path)
    said = refused(path, "can run code")
    assert str(path) in said
    assert "weights_only" not in said
    assert not trap.path.exists()


@pytest.mark.parametrize(
    "content",
    [{}, [1], {"a": torch.ones(2)}, {"decoder_state_dict": []}, {"decoder_state_dict": {"a": 1}}],
)
def test_a_foreign_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    assert str(path) in refused(path, "checkpoint")


def test_a_checkpoint_of_anomalib_is_sent_to_its_own_command(anomalib, tmp_path):
    torch.save(peers.anomalib_checkpoint(anomalib.encoder, anomalib.coders), tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "cflow-ad import anomalib")


@pytest.mark.parametrize("key", ["conv1.weight", "layer4.1.bn2.running_var"])
def test_an_encoder_with_a_gap_is_named(authors_content, tmp_path, key):
    state = dict(authors_content["encoder_state_dict"])
    del state[key]
    torch.save({**authors_content, "encoder_state_dict": state}, tmp_path / "gap.pt")
    refused(tmp_path / "gap.pt", r"gap\.pt: these weights are not of", WeightsError)
