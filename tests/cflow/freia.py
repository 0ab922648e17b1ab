"""The authors' decoder: FrEIA's own modules, with the weights of one of our flows."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import nn

from cflow_ad.cflow.flow import CouplingBlock
from tests.cflow.oracle import rotation_of


def freia_of(flow):
    """FrEIA's `SequenceINN` of `AllInOneBlock`, with the flow's own weights in double precision."""
    with warnings.catch_warnings():
        # Its docstrings hold escapes that newer Pythons warn of when they compile it.
        warnings.simplefilter("ignore")
        pytest.importorskip("FrEIA")
        framework = importlib.import_module("FrEIA.framework")
        modules = importlib.import_module("FrEIA.modules")
    position_channels = flow.position_channels
    condition = {"cond": 0, "cond_shape": (position_channels,)} if position_channels else {}
    peer = framework.SequenceINN(flow.channels)
    for block in flow.blocks:
        peer.append(
            modules.AllInOneBlock,
            **condition,
            subnet_constructor=lambda d, out: nn.Sequential(
                nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, out)
            ),
            affine_clamping=1.9,
            global_affine_type="SOFTPLUS",
            permute_soft=block.permutation.is_floating_point(),
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
