"""A station serves what is promoted in a model store, and keeps few models in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cflow_ad.errors import StationError
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.serving import size_of
from cflow_ad.station.config import StationConfig
from tests.fleet.versions import build_version
from tests.station.conftest import Client


@pytest.fixture
def store(model_file, toy_detector, tmp_path):
    """A store with three products; the first has two versions, of which the older is promoted."""
    found = ModelStore(tmp_path / "store")
    toy_detector.save(tmp_path / "other.safetensors", bundle=False)
    first, second = model_file.read_bytes(), (tmp_path / "other.safetensors").read_bytes()
    for product, name, model in (
        ("M8 screw", "a1", first),
        ("M8 screw", "b2", second),
        ("nut", "c3", first),
        ("washer", "d4", second),
    ):
        found.add(build_version(product, name, model, finished=name), model)
    return found


def used(client, name):
    return client.station.registry.version(client.station.registry.active(name).id).sha256


def test_promotions_of_a_store_are_followed(store, toy_detector, tmp_path, pictures):
    memory = 1.5 * size_of(toy_detector) / 2**30
    config = StationConfig(
        data=tmp_path / "station", store=store.name, memory=memory, device="cpu", workers=1
    )
    versions = {version.version: version for version in store.versions()}
    with Client(config) as client:
        registry = client.station.registry
        assert registry.names() == ["M8-screw", "nut", "washer"]
        assert used(client, "M8-screw") == versions["a1"].sha256
        for name in registry.names():
            assert registry.detector(registry.active(name).id).threshold == toy_detector.threshold
            assert len(registry._detectors) == 1
        store.promote("M8 screw", "b2")
        assert client.station._store.follow() == ["M8-screw"], "which the pages are told"
        assert used(client, "M8-screw") == versions["b2"].sha256
        store.rollback("M8 screw")
        client.station._store.follow()
        assert used(client, "M8-screw") == versions["a1"].sha256
        changes = registry.active("M8-screw").id
        assert client.station._store.follow() == []
        assert registry.active("M8-screw").id == changes


def test_products_that_would_have_one_name_are_refused(store, tmp_path):
    version = store.get("nut")
    store.add(replace(version, product="M8-screw"), store.read(version))
    config = StationConfig(data=tmp_path / "station", store=store.name, device="cpu", workers=1)
    with pytest.raises(StationError, match="are both M8-screw here"):
        Client(config)
