"""The authors' decoder: FrEIA's own modules, as drawn or with the weights of one of our flows."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import nn

from cflow_ad.cflow.flow import CouplingBlock
from tests.cflow.oracle import rotation_of


def decoder(channels, *, blocks=2, condition=128, soft=True):
    """A decoder as the authors and anomalib make it, by FrEIA 0.2."""
    with warnings.catch_warnings():
        # Its docstrings hold escapes that newer Pythons warn of when they compile it.
        warnings.simplefilter("ignore")
        pytest.importorskip("FrEIA")
        framework = importlib.import_module("FrEIA.framework")
        modules = importlib.import_module("FrEIA.modules")
    coder = framework.SequenceINN(channels)
    for _ in range(blocks):
        coder.append(
            modules.AllInOneBlock,
            **({"cond": 0, "cond_shape": (condition,)} if condition else {}),
            subnet_constructor=lambda d, out: nn.Sequential(
                nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, out)
            ),
            affine_clamping=1.9,
            global_affine_type="SOFTPLUS",
            permute_soft=soft,
        )
    return coder


def freia_of(flow):
    """A decoder with a flow's own weights, in double precision."""
    peer = decoder(
        flow.channels,
        blocks=len(flow.blocks),
        condition=flow.condition_channels,
        soft=flow.blocks[0].permutation.is_floating_point(),
    )
    peer.double()
    with torch.no_grad():
        for theirs, ours in zip(peer, flow.blocks, strict=True):
            # A peer's global scale starts where ours does.
            assert theirs.global_scale.max().item() == pytest.approx(
                CouplingBlock(torch.arange(2), 0).gamma.max().item(), rel=1e-6
            )
            theirs.subnet[0].load_state_dict(ours.first.state_dict())
            theirs.subnet[2].load_state_dict(ours.second.state_dict())
            theirs.global_scale[0] = ours.gamma
            theirs.global_offset[0] = ours.offset
            rotation = torch.from_numpy(rotation_of(ours))
            theirs.w_perm.copy_(rotation)
            theirs.w_perm_inv.copy_(rotation.T)
    return peer
