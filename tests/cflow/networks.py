"""Networks for tests."""

from __future__ import annotations

import torch
from torch import nn


def shaken(network):
    """A network with batch statistics and biases that a mistake in their order would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    return network.eval()
