"""What several tests of fitting share."""

from __future__ import annotations

import pytest

from cflow_ad.cflow.building import build_encoder


@pytest.fixture(scope="session")
def encoder(toy_settings):
    """The encoder of `toy_settings`."""
    return build_encoder(toy_settings)
