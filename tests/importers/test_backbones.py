"""A backbone is known by its encoder's tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from cflow_ad.errors import ModelFileError
from cflow_ad.importers.backbones import choose_backbone, choose_strides, recognise


def tensors_of(name):
    """Torchvision's, by shape alone."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None).state_dict()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
        "mobilenet_v3_large",
    ],
)
def test_a_backbone_is_recognised_whole_or_cut_short(name):
    tensors = tensors_of(name)
    assert recognise(tensors) == name
    if "mobile" in name:
        bare = {key.removeprefix("features."): value for key, value in tensors.items()}
        assert recognise(bare) == name
    else:
        cut = {k: v for k, v in tensors.items() if not k.startswith(("layer4", "fc"))}
        assert recognise(cut) == name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "resnet152", "vit_b_16"])
def test_others_are_not_mistaken_for_them(name):
    assert recognise(tensors_of(name)) is None


def test_the_tag_of_weights_is_not_part_of_the_comparison():
    tensors = tensors_of("resnet18")
    path = Path("x.pt")
    assert choose_backbone(path, tensors, stated=None, tag=".tv_in1k") == "resnet18.tv_in1k"
    assert choose_backbone(path, tensors, stated="resnet18.a1_in1k") == "resnet18.a1_in1k"
    mobile = tensors_of("mobilenet_v3_large")
    assert choose_backbone(path, mobile, stated=None, tag=".tv_in1k") == "mobilenet_v3_large"
    with pytest.raises(ModelFileError, match=r"x\.pt: its encoder is a resnet18"):
        choose_backbone(path, tensors, stated="wide_resnet50_2.tv_in1k")


@pytest.mark.parametrize(
    ("channels", "names", "strides"),
    [
        ([128, 256, 512], None, (8, 16, 32)),
        ([64, 512], None, (4, 32)),  # of two levels with 64 channels the coarser
        ([64, 512], ["act1", "layer4"], (2, 32)),
    ],
)
def test_levels_are_found_by_channels_or_by_name(channels, names, strides):
    assert choose_strides(Path("x.pt"), "resnet18", channels, names) == strides


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        ([512, 256], None),
        ([256, 256], None),
        ([7], None),
        ([256], ["layer2"]),
        ([256], ["layer2", "layer3"]),
    ],
)
def test_levels_that_are_none_are_refused(channels, names):
    with pytest.raises(ModelFileError, match=r"x\.pt: its decoders take"):
        choose_strides(Path("x.pt"), "resnet18", channels, names)
