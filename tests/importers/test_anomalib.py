"""A checkpoint of anomalib's Cflow, imported, is the same model.

The checkpoints are built here, in the keys and shapes of anomalib 2.7.0's own;
`benchmarks/anomalib_parity.py` holds the import against anomalib itself.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cflow_ad import ModelFileError
from cflow_ad.importers.anomalib import import_anomalib
from tests.importers import peers
from tests.importers.conftest import trained
from tests.importers.test_authors import assert_same_maps


@pytest.fixture(scope="module")
def content(anomalib):
    return peers.anomalib_checkpoint(anomalib.encoder, anomalib.coders)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint; its path."""

    def saved(values, name="model.ckpt"):
        torch.save(values, tmp_path / name)
        return tmp_path / name

    return saved


def with_transforms(content, *transforms):
    changed = dict(content)
    changed["anomalib_pre_processor_config"] = {
        "transform": peers.transform("Compose", transforms=list(transforms))
    }
    return changed


def refused(path, match, **kwargs):
    with pytest.raises(ModelFileError, match=match) as caught:
        import_anomalib(path, **kwargs)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_level_has_anomalibs_log_likelihoods(anomalib, content, save, small):
    detector = import_anomalib(save(content), device="cpu")
    assert_same_maps(detector, anomalib, small[:3])
    settings, method = detector.settings, detector.settings.method
    assert (settings.backbone, settings.size, method.padding) == ("resnet18", "64x96", "zeros")
    assert (method.blocks, method.position_channels, method.permutation) == (2, 128, "index")
    assert method.interpolation == "bilinear"
    assert detector.training["assumed"] == ""


def test_its_levels_are_those_the_checkpoint_names(small, save):
    layers = ("layer1", "layer3")
    model = trained(peers.AnomalibEncoder(layers), small, blocks=1, soft=True)
    content = peers.anomalib_checkpoint(model.encoder, model.coders, layers=layers)
    detector = import_anomalib(save(content), device="cpu")
    assert detector.settings.strides == (4, 16)
    assert detector.settings.method.permutation == "soft"
    assert_same_maps(detector, model, small[:1])


def test_its_clamp_and_learning_rate_are_the_checkpoints(anomalib, save):
    content = peers.anomalib_checkpoint(anomalib.encoder, anomalib.coders, clamp_alpha=1.5, lr=0.01)
    detector = import_anomalib(save(content), device="cpu")
    assert {block.clamp for level in detector.model.levels for block in level.density.blocks} == {
        1.5
    }
    assert (detector.settings.method.clamp, detector.settings.learning_rate) == (1.5, 0.01)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_state_dict_alone_takes_anomalibs_defaults(anomalib, content, save, small, prefix):
    state = {
        key.removeprefix("model.") if not prefix else key: value
        for key, value in content["state_dict"].items()
    }
    path = save(state)
    detector = import_anomalib(path, device="cpu")
    assert detector.settings.size == "256x256"
    assert "256x256" in detector.training["assumed"]
    detector = import_anomalib(path, size="64x96", device="cpu")
    assert "256x256" not in detector.training["assumed"]
    assert_same_maps(detector, anomalib, small[:1])


def test_images_are_scaled_as_the_pre_processor_does(anomalib, content, save, small):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    path = save(with_transforms(content, peers.resize([64, 96]), peers.normalise(mean, std)))
    ours = import_anomalib(path, device="cpu").log_likelihoods(small[0])
    pyramid = anomalib.encoder(peers.normalised(small[:1], mean, std))
    theirs = peers.likelihood_maps(anomalib.coders, pyramid)
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)
    plain = import_anomalib(save(with_transforms(content, peers.resize([64, 64]))), device="cpu")
    assert plain.model.encoder.spec.mean == (0, 0, 0)
    assert plain.model.encoder.spec.std == (1, 1, 1)


@pytest.mark.parametrize("size", [256, [256]])
def test_a_size_of_one_side_has_to_be_given(content, save, size):
    path = save(with_transforms(content, peers.resize(size), peers.normalise()))
    refused(path, "give --size")
    assert import_anomalib(path, size="64x96", device="cpu").settings.size == "64x96"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (peers.transform("CenterCrop", size=[224, 224]), "CenterCrop"),
        (peers.transform("Grayscale", num_output_channels=3), "Grayscale"),
        (peers.resize([64, 96], "nearest"), "Resize with a kernel other than bilinear"),
    ],
)
def test_images_prepared_in_another_way_are_refused(content, save, step, said):
    refused(save(with_transforms(content, peers.resize([64, 96]), step, peers.normalise())), said)


def test_images_prepared_in_an_unknown_way_are_refused(content, save):
    unknown = {**content, "anomalib_pre_processor_config": {"transform": None}}
    refused(save(unknown), "does not state how its images were prepared")
    none = {**content, "anomalib_components_enabled": {"pre_processor": False}}
    refused(save(none), "does not state how its images were prepared")


def test_another_backbone_than_the_encoders_is_named(content, save):
    refused(save(content), "a resnet18, not a resnet34", backbone="resnet34")


def test_layers_that_are_not_there_are_named(content, save):
    changed = copy.copy(content)
    changed["hyper_parameters"] = {**content["hyper_parameters"], "layers": ("x", "y", "z")}
    refused(save(changed), "take levels of 128, 256, 512 channels, and resnet18 has")


@pytest.mark.parametrize("end", ["global_scale", "w_perm", "subnet.2.bias"])
def test_a_missing_tensor_is_named(content, save, end):
    state = dict(content["state_dict"])
    del state[f"model.decoders.1.module_list.1.{end}"]
    refused(save({**content, "state_dict": state}), rf"decoder 2, block 2: {end} is missing")


def test_a_checkpoint_without_encoder_is_named(content, save):
    state = {k: v for k, v in content["state_dict"].items() if "encoder" not in k}
    refused(save({**content, "state_dict": state}), "no encoder")


@pytest.mark.parametrize(
    "changes",
    [
        {"hyper_parameters": {"clamp_alpha": "much"}},
        {"hyper_parameters": {"lr": [1]}},
        {"hyper_parameters": {"backbone": 5}},
        {"anomalib_pre_processor_config": {"transform": {"init_args": 3}}},
        {"anomalib_pre_processor_config": {"transform": peers.transform("Normalize")}},
        {"anomalib_pre_processor_config": {"transform": peers.normalise("xyz")}},
    ],
)
def test_values_of_another_kind_are_named(content, save, changes):
    refused(save({**content, **changes}), ".")


def test_other_checkpoints_are_named(authors_file, save, content):
    refused(authors_file, "cflow-ad import authors")
    other = {"state_dict": {"model.memory_bank": torch.zeros(3)}}
    refused(save(other), "not a checkpoint of anomalib's Cflow")


def test_an_exported_model_is_refused_and_not_run(content, save, tmp_path):
    """`Engine.export` to torch pickles the whole module."""
    trap = peers.Trap(tmp_path / "sprung")
    said = refused(save({"model": trap}, "model.pt"), "can run code")
    assert "Lightning .ckpt" in said
    assert not trap.path.exists()
