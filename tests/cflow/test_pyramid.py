"""The paper's backbones are tapped where the paper taps them, and pad as its authors pad."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from cflow_ad.cflow.building import empty_encoder
from cflow_ad.cflow.pyramid import MOBILENET_V3, build_pyramid, join_strides
from cflow_ad.cflow.weights import match_weights
from cflow_ad.errors import SettingsError
from tests.cflow.networks import encoder_of, shaken

STRIDES = (8, 16, 32)


def filled(backbone, weights, **kwargs):
    network = build_pyramid(backbone, STRIDES, **kwargs).network
    network.load_state_dict(match_weights(weights, network.state_dict(), source=""))
    return network.eval()


def torchvision_resnet(network, x):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    taps = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        taps.append(x)
    return taps[1:]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "wide_resnet50_2"])
@torch.inference_mode()
def test_resnets_give_torchvisions_layers_2_to_4(backbone):
    theirs = shaken(torchvision.models.get_model(backbone, weights=None))
    # Torchvision's older files do not say how many batches a normalisation has seen.
    weights = {k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}
    x = torch.randn(2, 3, 64, 96)
    ours = filled(f"{backbone}.tv_in1k", weights)(x)
    for mine, expected in zip(ours, torchvision_resnet(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_mobilenet_gives_its_projections_before_normalisation_and_residual():
    theirs = shaken(torchvision.models.mobilenet_v3_large(weights=None))
    seen = []
    for number in (-11, -5, -2):  # the paper's taps
        projection = theirs.features[number].block[-1][0]
        projection.register_forward_hook(lambda module, given, result: seen.append(result))
    x = torch.randn(2, 3, 64, 96)
    theirs(x)
    ours = filled(MOBILENET_V3, theirs.state_dict())(x)
    assert [level.shape[1] for level in ours] == [40, 112, 160]
    for mine, expected in zip(ours, seen, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "levels", "channels"),
    [
        ("resnet18", 1, (512,)),
        ("resnet18", 2, (256, 512)),
        ("wide_resnet50_2", 3, (512, 1024, 2048)),
        (MOBILENET_V3, 2, (112, 160)),
    ],
)
def test_fewer_levels_are_the_deepest(backbone, levels, channels):
    """L=1 and L=2 of the paper."""
    assert build_pyramid(backbone, STRIDES[-levels:]).channels == channels


def test_a_finer_map_comes_first_where_the_backbone_has_one():
    assert join_strides("resnet18", STRIDES) == [(4, 8), (16,), (32,)]
    assert join_strides(MOBILENET_V3, (16, 32)) == [(8, 16), (32,)]
    assert join_strides(MOBILENET_V3, STRIDES) == [(8,), (16,), (32,)]


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "mobilenetv3_small_100"])
@torch.inference_mode()
def test_the_last_two_stages_of_a_stride_are_timms(backbone):
    assert join_strides(backbone, STRIDES) == [(4, 8), (16, 16), (32, 32)]
    strides = (4, 8, 16, 16, 32, 32)
    whole = shaken(timm.create_model(backbone, num_classes=0)).eval()
    x = torch.randn(1, 3, 64, 96)
    stages = whole.forward_intermediates(x, intermediates_only=True, extra_blocks=True)[1:]
    expected = [one for stride in STRIDES[1:] for one in stages if 64 // one.shape[2] == stride]
    pyramid = build_pyramid(backbone, strides)
    weights = match_weights(whole.state_dict(), pyramid.network.state_dict(), source="")
    pyramid.network.load_state_dict(weights)
    maps = pyramid.network.eval()(x)
    assert pyramid.channels == tuple(one.shape[1] for one in maps)
    for mine, theirs in zip(maps[-4:], expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert build_pyramid(backbone, STRIDES).channels == tuple(maps[at].shape[1] for at in (1, 3, 5))
    with pytest.raises(SettingsError, match=r"has no level of stride 16"):
        build_pyramid(backbone, (16, 16, 16))


@torch.inference_mode()
def test_reflection_is_a_mirrored_border_before_each_convolution():
    class Mirrored(nn.Module):
        def __init__(self, convolution):
            super().__init__()
            self.convolution = convolution
            self.border = [side for side in reversed(convolution.padding) for _ in range(2)]
            convolution.padding = (0, 0)

        def forward(self, x):
            return self.convolution(F.pad(x, self.border, mode="reflect"))

    theirs = shaken(torchvision.models.resnet18(weights=None))
    weights = {name: value.clone() for name, value in theirs.state_dict().items()}
    for parent in list(theirs.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and any(child.padding):
                setattr(parent, name, Mirrored(child))
    x = torch.randn(2, 3, 64, 96)
    ours = filled("resnet18.tv_in1k", weights, padding="reflect")(x)
    for mine, expected in zip(ours, torchvision_resnet(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    zeros = filled("resnet18.tv_in1k", weights)(x)
    assert not torch.allclose(zeros[-1], ours[-1], atol=1e-2)


def test_a_specs_padding_is_built_again():
    encoder = encoder_of("test_resnet", (8,), padding="reflect")
    empty = empty_encoder(encoder.spec)
    empty.load_state_dict(encoder.state_dict())
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(empty(pixels)[0], encoder(pixels)[0])


def test_an_input_too_small_to_mirror_is_named():
    encoder = encoder_of("resnet18", (32,), padding="reflect")
    assert encoder(torch.zeros(1, 64, 64, 3))[0].shape == (1, 512, 2, 2)
    with pytest.raises(SettingsError, match=r"padding is reflect: an input of 32x64 is too small"):
        encoder(torch.zeros(1, 32, 64, 3))


def test_a_backbone_that_cannot_reflect_is_named():
    with pytest.raises(SettingsError, match=r"tf_efficientnet_lite0 pads in its own way"):
        build_pyramid("tf_efficientnet_lite0", STRIDES, padding="reflect")


def test_mobilenet_has_only_the_papers_strides():
    with pytest.raises(SettingsError, match=r"no level of stride 4; it has 8, 16, 32"):
        build_pyramid(MOBILENET_V3, (4, 8))


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_pyramid("test_resnet", (8,), seed=3)
    assert torch.rand(1) == expected
