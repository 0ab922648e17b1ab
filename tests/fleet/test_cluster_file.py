"""The example of a cluster is one that Ray accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "fleet" / "cluster.yaml"


def test_ray_accepts_the_example_of_a_cluster():
    pytest.importorskip("ray")
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(EXAMPLE.read_text()))
    validate_config(config)
    assert config["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3"]
    assert "/ray start --head" in config["head_start_ray_commands"][-1]
    with pytest.raises(Exception, match="unexpected"):
        validate_config(config | {"unexpected": 1})
