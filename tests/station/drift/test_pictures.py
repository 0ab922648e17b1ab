"""The median pictures before and after a drift."""

from __future__ import annotations

import numpy as np

from cflow_ad.station.drift.routes import _pictures
from tests.station.conftest import png


def test_deep_pictures_are_shown_as_their_model_reads_them(client, images):
    grey = images[0][..., 0].astype(np.uint16)
    number = client.inspect(png(grey * 257))["id"]
    (shown,) = _pictures(client.station, "part", number, "after")
    assert np.abs(shown[..., 0].astype(int) - grey).max() <= 1
