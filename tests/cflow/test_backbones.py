"""Backbones that are recommended or called tried exist in timm and work."""

from __future__ import annotations

import pytest
import timm
import torch

from cflow_ad import Settings
from cflow_ad.cflow.backbones import RECOMMENDED, TRIED
from cflow_ad.cflow.building import build_encoder
from cflow_ad.cflow.transformer import resolve_blocks
from tests.cflow.networks import random_pixels


@pytest.mark.parametrize("backbone", TRIED)
def test_what_is_called_tried_gives_three_levels(backbone):
    encoder = build_encoder(resolve_blocks(Settings(backbone=backbone, weights="random")))
    levels = encoder(random_pixels(1))
    assert len(levels) == 3
    for level, grid in zip(levels, encoder.spec.grids((64, 96)), strict=True):
        assert level.shape[2:] == grid
        assert torch.isfinite(level).all()


def test_what_is_recommended_has_weights_in_timm():
    assert set(RECOMMENDED) <= set(timm.list_pretrained())
