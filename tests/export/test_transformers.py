"""A vision transformer's export gives the detector's results, at every size or at one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_sincos import _build_grid

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.export.export import export_model
from cflow_ad.export.positions import build_grid, resize_positions
from cflow_ad.method import Method
from cflow_ad.runtime import Detector as RuntimeDetector
from tests.cflow.networks import TINY_DINO


def fit(images, backbone, **changes):
    settings = Settings(
        backbone=backbone,
        weights="random",
        steps=3,
        batch_size=64,
        transformer_blocks=(0, 1),
        strides=(14, 14) if backbone == TINY_DINO else (16, 16),
        method=Method(blocks=1, position_channels=16),
        **changes,
    )
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu")


@pytest.mark.parametrize("shape", [(5, 5), (3, 9), (24, 13)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_positions_are_resized_as_timm_resizes_them(shape, prefix):
    embeddings = torch.randn(1, prefix + 6 * 7, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        resize(embeddings, new_size=shape, old_size=(6, 7), num_prefix_tokens=prefix)
        for resize in (resize_positions, resample_abs_pos_embed)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (5, 3)])
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_the_grid_of_rotary_positions_is_timms(shape, offset):
    options = {"grid_type": "centered", "grid_offset": offset, "ndim": 2}
    torch.testing.assert_close(build_grid(shape, **options), _build_grid(shape, **options))


@pytest.mark.parametrize(
    ("backbone", "name", "options"),
    [
        (TINY_DINO, "m.onnx", {"format": "onnx"}),
        (TINY_DINO, "m.xml", {"format": "openvino"}),
        ("vit_tiny_patch16_dinov3_qkvb", "m.onnx", {"format": "onnx"}),
    ],
)
def test_an_export_scores_as_the_model(images, tmp_path, backbone, name, options):
    one_size = {"size": "70x84", "resize": "stretch"} if name == "m.xml" else {"size": "64x64"}
    detector = fit(images, backbone, **one_size)
    report = export_model(detector, tmp_path / name, **options)
    assert (report.size is None) == (name == "m.onnx")
    exported = RuntimeDetector.load(report.path)
    for image in (images[0], images[1][:60], images[2][:, :40]):
        ours, theirs = detector.predict(image), exported.predict(image)
        assert theirs.score == pytest.approx(ours.score, rel=1e-4)
        unit = max(1.0, ours.score)
        np.testing.assert_allclose(theirs.anomaly_map, ours.anomaly_map, atol=1e-4 * unit)
