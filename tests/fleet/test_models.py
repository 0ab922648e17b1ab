"""Laws of the model store: versions are immutable, and one of each product is promoted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cflow_ad.errors import StoreError
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.versions import check_product
from tests.fleet.versions import build_version


def test_what_was_added_comes_back(place, tmp_path):
    store = ModelStore(place)
    added = build_version()
    assert store.find("screw", "a1") is None
    assert store.add(added, b"model") == added
    assert store.find("screw", "a1") == added
    assert store.versions() == [added]
    assert store.pull("screw", tmp_path / "new" / "m.safetensors") == added
    assert (tmp_path / "new" / "m.safetensors").read_bytes() == b"model"


def test_a_version_is_never_replaced(place):
    store = ModelStore(place)
    first = store.add(build_version(), b"model")
    assert store.add(build_version(model=b"other"), b"other") == first
    assert store.read(store.get("screw")) == b"model"
    with pytest.raises(StoreError, match="not the one"):
        store.add(build_version(name="b2"), b"other")


def test_the_first_version_is_promoted_and_later_ones_when_asked(place):
    store = ModelStore(place)
    for number, name in enumerate(("a1", "b2", "c3")):
        store.add(build_version(name=name, finished=f"2026-01-0{number + 1}"), b"model")
    assert store.promoted("screw") == "a1"
    assert store.promote("screw") == "c3"
    assert store.promote("screw", "b") == "b2"
    assert store.promote("screw", "b2") == "b2"  # promoted already: nothing to take back
    assert store.all_promoted() == {"screw": "b2"}
    assert store.rollback("screw") == "c3"
    assert store.rollback("screw") == "a1"
    with pytest.raises(StoreError, match="no other version of 'screw'"):
        store.rollback("screw")
    assert store.get("screw").version == "a1"
    assert store.get("screw", "c").version == "c3"


def test_of_many_promotions_at_once_none_is_lost(tmp_path):
    store = ModelStore(tmp_path)
    names = [f"{number:x}0" for number in range(10)]
    for name in names:
        store.add(build_version(name=name), b"model")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: ModelStore(tmp_path).promote("screw", name), names[1:]))
    taken_back = {store.promoted("screw")}
    for _ in names[1:]:
        taken_back.add(store.rollback("screw"))
    assert taken_back == set(names)


def test_a_product_may_have_any_name(tmp_path):
    store = ModelStore(tmp_path / "store")
    names = ["M8 / screw", "..", ".", "ü%2F", "a?b*c", "x" * 200]
    for name in names:
        check_product(name)
        store.add(build_version(product=name), b"model")
    assert {version.product for version in store.versions()} == set(names)
    assert set(store.all_promoted()) == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    for name in ("", "x" * 201):
        with pytest.raises(StoreError, match="1 to 200"):
            check_product(name)


def test_a_damaged_store_is_an_error(tmp_path):
    store = ModelStore(tmp_path)
    added = store.add(build_version(), b"model")
    (tmp_path / "models" / f"{added.sha256}.safetensors").write_bytes(b"mod")
    with pytest.raises(StoreError, match="the model of screw is damaged"):
        store.read(added)
    record = tmp_path / "versions" / "screw" / "a1.json"
    for content in (b"{", b'{"product": "screw"}'):
        record.write_bytes(content)
        with pytest.raises(StoreError, match="damaged"):
            store.get("screw")


def test_what_is_not_there_is_named(place):
    store = ModelStore(place)
    for use in (store.get, store.promote, store.rollback):
        with pytest.raises(StoreError, match="nut"):
            use("nut")
    for name in ("a1", "a2"):
        store.add(replace(build_version(), version=name), b"model")
    for beginning, why in (("a", "several versions"), ("b", "no version")):
        with pytest.raises(StoreError, match=why):
            store.get("screw", beginning)


def test_the_last_run_and_its_failures(place):
    store = ModelStore(place)
    assert store.last_run() == ([], {})
    store.add_run("2026-01-01", [{"product": "old", "job": "j"}])
    store.add_failure("2026-01-01", "old", {"error": "gone"})
    store.add_run("2026-01-02", [{"product": "a/b", "job": "j"}])
    store.add_failure("2026-01-02", "a/b", {"error": "no images"})
    asked, failed = store.last_run()
    assert [item["product"] for item in asked] == ["a/b"]
    assert failed == {"a/b": {"error": "no images"}}
