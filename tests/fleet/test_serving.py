"""Detectors of many products stay within a stated amount of memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cflow_ad.errors import ModelFileError, SettingsError
from cflow_ad.fleet.serving import DetectorCache, size_of


def test_those_used_last_are_kept_within_the_bound(toy_detector):
    size = size_of(toy_detector)
    loaded = []

    def load(key):
        loaded.append(key)
        return toy_detector

    cache = DetectorCache(load, gib=2.5 * size / 2**30)
    for key in "abacab":
        assert cache.get(key) is toy_detector
        assert cache.used <= 2.5 * size
    assert loaded == ["a", "b", "c", "b"]  # c took the place of b, which was used before a
    assert len(cache) == 2


def test_one_that_is_larger_than_the_bound_is_served(toy_detector):
    cache = DetectorCache(lambda key: toy_detector, gib=1e-9)
    for key in "ab":
        cache.get(key)
        assert len(cache) == 1
    with pytest.raises(SettingsError, match="greater than 0"):
        DetectorCache(lambda key: toy_detector, gib=0)


def test_a_detector_is_loaded_once_and_holds_up_no_other(toy_detector):
    loaded, slow = [], threading.Event()

    def load(key):
        loaded.append(key)
        if key == "slow":
            assert slow.wait(30)
        return toy_detector

    cache = DetectorCache(load)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.get, "slow") for _ in range(6)]
        while not loaded:
            time.sleep(0.001)
        assert cache.get("quick") is toy_detector
        slow.set()
        assert {future.result() for future in waiting} == {toy_detector}
    assert sorted(loaded) == ["quick", "slow"]


def test_a_model_that_cannot_be_loaded_is_tried_again():
    def load(key):
        raise ModelFileError(f"{key} is damaged")

    cache = DetectorCache(load)
    for _ in range(2):
        with pytest.raises(ModelFileError):
            cache.get("a")
