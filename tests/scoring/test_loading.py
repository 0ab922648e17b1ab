"""Images are prepared ahead of their use, but no more of them than there is room for."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cflow_ad.data import parallel
from cflow_ad.data.parallel import work_ahead
from cflow_ad.scoring import loading
from cflow_ad.scoring.canvas import Sizing
from cflow_ad.scoring.loading import load_batches
from cflow_ad.scoring.view import View


@pytest.mark.parametrize(("room", "most"), [(0, 1), (10, 1), (29, 2), (1000, 9)])
def test_images_in_work_have_room_and_come_in_order(room, most, monkeypatch):
    monkeypatch.setattr(parallel, "ROOM", room)
    begun, lock = [0], threading.Lock()

    def work(source):
        with lock:
            begun[0] += 1
        return source

    sources = [str(number) for number in range(40)]
    results = work_ahead(sources, work, workers=4, ahead=8, size=lambda source: 10)
    for given, (source, result) in enumerate(results, start=1):
        assert source == result == sources[given - 1]
        assert begun[0] - given < max(2, most + 1)


def test_batches_of_large_images_are_smaller(monkeypatch):
    monkeypatch.setattr(loading, "ROOM", 2 * 64 * 96)
    images = [np.zeros((60, 90, 3), np.uint8)] * 5 + [np.zeros((20, 20, 3), np.uint8)] * 5
    batches = list(load_batches(images, View(sizing=Sizing.parse("native")), batch_size=4))
    assert [len(batch.canvases) for batch in batches] == [2, 2, 1, 4, 1]
