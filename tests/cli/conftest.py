"""A small carpet, and a model of it."""

from __future__ import annotations

import pytest

from cflow_ad.data.carpet import write_carpet
from tests.cli.commands import TINY, run


@pytest.fixture(scope="session")
def carpet(tmp_path_factory):
    """Ten good images to train on, four good and ten defective ones to test on; 64 x 64."""
    folder = tmp_path_factory.mktemp("data") / "carpet"
    write_carpet(folder, train=10, good=4, per_defect=2, size=64)
    return folder


@pytest.fixture(scope="session")
def model(carpet, tmp_path_factory):
    """Trained on the carpet with a tiny random backbone; not to be changed."""
    path = tmp_path_factory.mktemp("model") / "carpet.safetensors"
    result = run("train", carpet, "-o", path, *TINY)
    assert result.exit_code == 0, result.output
    return path
