"""The station as a deployment of Ray Serve. Ray itself is not started: that takes half a minute."""

from __future__ import annotations

import sys
import warnings

from cflow_ad.station.config import Limits, StationConfig
from cflow_ad.station.on_ray import build_deployment
from tests.cli.commands import refused


def test_more_than_may_wait_is_refused_as_the_station_does(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        config = StationConfig(data=tmp_path, limits=Limits(queue=8), workers=2)
        found = build_deployment(config, queue=5)
    assert found.max_queued_requests == 5
    assert found.max_ongoing_requests > 8  # the station itself answers 429 first
    assert found.backpressure_config.status_code == 429
    assert found.num_replicas == 1
    assert found.ray_actor_options["num_cpus"] == 2


def test_a_station_that_nobody_could_log_in_to_is_refused(tmp_path):
    line = refused("serve", "--engine", "ray", "--data", tmp_path)
    assert "--key-file" in line


def test_without_ray_the_engine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = ("--engine", "ray", "--data", tmp_path, "--key-file", tmp_path / "key")
    assert "pip install 'cflow-ad[fleet]'" in refused("serve", *options)
    assert "spark" in refused("serve", "--engine", "spark")
