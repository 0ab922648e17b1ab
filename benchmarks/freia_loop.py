"""CFLOW-AD as its authors' code runs it, over FrEIA's decoders: a peer for comparison.

Written from the paper and a description of that code: the encoder runs in every pass, and vectors
go through a decoder 256 at a time, in training and in scoring alike. The condition is repeated for
every vector, as there.
"""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.position import encode_axis

FIBRE = 256
"""Vectors in a step."""


class FreiaLoop:
    """Encoder and decoders.

    Args:
        encoder: frozen.
        learning_rate: of Adam over all decoders.
    """

    def __init__(self, encoder: Encoder, learning_rate: float = 2e-4) -> None:
        self.encoder = encoder
        device = encoder.mean.device
        self.decoders = [_build_decoder(channels).to(device) for channels in encoder.spec.channels]
        parameters = [value for decoder in self.decoders for value in decoder.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=learning_rate)

    def train_on(self, pixels: Tensor, *, most: int | None = None) -> tuple[int, int]:
        """Take the steps of one image batch, or at most so many on each level; returns how many
        were taken, and how many there are.
        """
        taken = whole = 0
        for decoder, features in zip(self.decoders, self.encoder(pixels), strict=True):
            vectors, condition = _flatten(features)
            order = torch.randperm(len(vectors), device=vectors.device)
            steps = len(vectors) // FIBRE
            whole += steps
            steps = min(steps, most or steps)
            taken += steps
            for number in range(steps):
                index = order[number * FIBRE : (number + 1) * FIBRE]
                likelihood = _log_likelihood(decoder, vectors[index], condition[index])
                loss = -F.logsigmoid(likelihood).mean()
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
        return taken, whole

    @torch.inference_mode()
    def score(self, pixels: Tensor) -> list[Tensor]:
        """Compute the log-likelihood per dimension at every position: `(B, h, w)` a level."""
        maps = []
        for decoder, features in zip(self.decoders, self.encoder(pixels), strict=True):
            parts = zip(*(of.split(FIBRE) for of in _flatten(features)), strict=True)
            likelihoods = [_log_likelihood(decoder, z, c) for z, c in parts]
            batch, _, height, width = features.shape
            maps.append(torch.cat(likelihoods).view(batch, height, width))
        return maps


def _build_decoder(channels: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its docstrings have escapes that Python warns of
        framework = importlib.import_module("FrEIA.framework")
        modules = importlib.import_module("FrEIA.modules")
    decoder = framework.SequenceINN(channels)
    for _ in range(8):
        decoder.append(
            modules.AllInOneBlock,
            cond=0,
            cond_shape=(128,),
            subnet_constructor=_build_subnet,
            affine_clamping=1.9,
            global_affine_type="SOFTPLUS",
            permute_soft=channels <= 512,  # scipy takes minutes for larger rotations
        )
    return decoder


def _build_subnet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.ReLU(), nn.Linear(2 * inputs, outputs))


def _flatten(features: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a map `(B, C, h, w)` into vectors `(n, C)` and their conditions `(n, 128)`."""
    batch, channels, height, width = features.shape
    columns, rows = (
        encode_axis(torch.arange(side, device=features.device), 64) for side in (width, height)
    )
    columns, rows = columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)
    condition = torch.cat((columns, rows), dim=-1).repeat(batch, 1, 1, 1)
    return features.permute(0, 2, 3, 1).reshape(-1, channels), condition.reshape(-1, 128)


def _log_likelihood(decoder: Any, vectors: Tensor, condition: Tensor) -> Tensor:
    u, log_det = decoder(vectors, [condition])
    channels = vectors.shape[1]
    log_p = log_det - 0.5 * u.square().sum(1) - 0.5 * channels * math.log(2 * math.pi)
    return log_p / channels
