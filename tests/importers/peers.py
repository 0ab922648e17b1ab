"""Models as others train and save them, built from torchvision, timm and FrEIA alone."""

from __future__ import annotations

import numpy as np
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tests.cflow.networks import shaken
from tests.cflow.oracle import encode_position

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def positions(height, width, condition=128):
    """The condition of every position of a map in order, shape `(H * W, P)`."""
    codes = [encode_position(row, col, condition) for row in range(height) for col in range(width)]
    return torch.tensor(np.stack(codes), dtype=torch.float32)


def log_likelihood(coder, vectors, conditions):
    """Per dimension: `(n, C)` and `(n, P)` to `(n,)`."""
    u, log_det = coder(vectors, [conditions]) if conditions.shape[1] else coder(vectors)
    channels = vectors.shape[1]
    log_p = -0.5 * (u.square().sum(1) + channels * np.log(2 * np.pi)) + log_det
    return log_p / channels


def train(coders, pyramid, *, steps=3, condition=128, seed=0):
    """The authors' loop: every level's vectors shuffled, each batch a step of Adam."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam([p for c in coders for p in c.parameters()], lr=1e-3)
    for coder, level in zip(coders, pyramid, strict=True):
        b, _, height, width = level.shape
        vectors = level.permute(0, 2, 3, 1).flatten(0, 2)
        conditions = positions(height, width, condition).repeat(b, 1)
        for _ in range(steps):
            chosen = torch.randperm(len(vectors))[:64]
            loss = -F.logsigmoid(log_likelihood(coder, vectors[chosen], conditions[chosen]))
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
    with torch.no_grad():
        for coder in coders:
            for name, value in coder.named_parameters():
                # A few steps hardly move these; a mistake in their order has to show.
                if "global" in name or "bias" in name:
                    value += 0.1 * torch.randn_like(value)


@torch.no_grad()
def likelihood_maps(coders, pyramid, condition=128):
    """Each level's log-likelihoods per dimension of one image, shape `(H, W)`."""
    maps = []
    for coder, level in zip(coders, pyramid, strict=True):
        height, width = level.shape[2:]
        vectors = level[0].permute(1, 2, 0).flatten(0, 1)
        values = log_likelihood(coder, vectors, positions(height, width, condition))
        maps.append(values.reshape(height, width).numpy())
    return maps


def normalised(images, mean=MEAN, std=STD):
    """Images as networks take them: `(B, 3, H, W)`."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class AuthorsResNet:
    """Torchvision's network without its head, padded by reflection."""

    channels = (128, 256, 512)

    def __init__(self, name="resnet18"):
        torch.manual_seed(1)
        self.network = shaken(torchvision.models.get_model(name, weights=None))
        del self.network.avgpool, self.network.fc
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and any(module.padding):
                module.padding_mode = "reflect"
        self.state = self.network.state_dict

    @torch.no_grad()
    def __call__(self, x):
        net = self.network
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        taps = []
        for layer in (net.layer2, net.layer3, net.layer4):
            x = layer(x)
            taps.append(x)
        return taps


class AuthorsMobileNet:
    """Torchvision's features, tapped by hooks as the authors do."""

    channels = (40, 112, 160)

    def __init__(self):
        torch.manual_seed(1)
        self.network = shaken(torchvision.models.mobilenet_v3_large(weights=None)).features
        self.state = self.network.state_dict
        self.taps = []
        for number in (-11, -5, -2):
            projection = self.network[number].block[-1][0]
            projection.register_forward_hook(lambda m, given, result: self.taps.append(result))

    @torch.no_grad()
    def __call__(self, x):
        self.taps.clear()
        self.network(x)
        return list(self.taps)


class AnomalibEncoder:
    """timm's feature maps of the layers that anomalib names."""

    def __init__(self, layers=("layer2", "layer3", "layer4"), name="resnet18"):
        torch.manual_seed(1)
        index = [("act1", "layer1", "layer2", "layer3", "layer4").index(layer) for layer in layers]
        self.network = shaken(
            timm.create_model(
                name, pretrained=False, features_only=True, exportable=True, out_indices=index
            )
        )
        self.channels = self.network.feature_info.channels()
        self.state = self.network.state_dict

    @torch.no_grad()
    def __call__(self, x):
        return self.network(x)


def anomalib_checkpoint(encoder, coders, *, transforms=None, **hyper_parameters):
    """What Lightning saves of anomalib 2.7's Cflow, in keys and shapes."""
    state = {"post_processor.image_min": torch.tensor(float("nan"))}
    state |= {f"model.encoder.feature_extractor.{k}": v for k, v in encoder.state().items()}
    for number, coder in enumerate(coders):
        state |= {f"model.decoders.{number}.{k}": v for k, v in coder.state_dict().items()}
    if transforms is None:
        transforms = [resize([64, 96]), normalise()]
    return {
        "epoch": 1,
        "global_step": 168,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "backbone": "resnet18",
            "clamp_alpha": 1.9,
            "condition_vector": 128,
            "decoder": "freia-cflow",
            "layers": ("layer2", "layer3", "layer4"),
            "lr": 0.0001,
            **hyper_parameters,
        },
        "anomalib_components_enabled": {"pre_processor": True, "visualizer": True},
        "anomalib_pre_processor_config": {
            "transform": transform("Compose", transforms=transforms),
        },
    }


def transform(name, **arguments):
    """A transform as anomalib 2.7 writes it into a checkpoint."""
    return {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}


def resize(size, interpolation="bilinear"):
    """Anomalib's resizing."""
    return transform("Resize", size=size, interpolation=interpolation, antialias=True)


def normalise(mean=MEAN, std=STD):
    """Anomalib's normalisation."""
    return transform("Normalize", mean=list(mean), std=list(std), inplace=False)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)
