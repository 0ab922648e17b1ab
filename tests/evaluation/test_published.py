"""The published results are copied correctly: their means are those of the paper."""

from __future__ import annotations

import statistics

import pytest

from cflow_ad.evaluation.published import MVTEC_CLASSES, Areas, find_published


@pytest.mark.parametrize(
    ("column", "means"),
    [("wide_resnet50", (98.26, 98.62, 94.60)), ("resnet18", (96.75, 98.06, None))],
)
def test_the_means_are_those_of_the_paper(column, means):
    for area, expected in enumerate(means):
        values = [getattr(each, column)[area] for each in MVTEC_CLASSES.values()]
        if expected is None:
            assert set(values) == {None}
        else:
            # The paper rounds some of its means and truncates others.
            assert statistics.fmean(values) == pytest.approx(expected, abs=0.0099)
            assert all(80 < value <= 100 for value in values)


def test_every_class_has_its_images_and_its_size():
    assert len(MVTEC_CLASSES) == 15
    assert list(MVTEC_CLASSES) == sorted(MVTEC_CLASSES)
    counts = [each.counts for each in MVTEC_CLASSES.values()]
    assert [sum(column) for column in zip(*counts, strict=True)] == [3629, 467, 1258]
    assert MVTEC_CLASSES["bottle"].counts == (209, 20, 63)
    by_side = {side: [n for n, c in MVTEC_CLASSES.items() if c.side == side] for side in (128, 256)}
    assert by_side[256] == ["cable", "capsule", "hazelnut", "metal_nut", "pill"]
    assert by_side[128] == ["transistor"]


def test_results_are_compared_with_the_backbone_or_the_papers_main_one():
    for backbone in ("resnet18", "resnet18.tv_in1k"):
        assert find_published("carpet", backbone) == Areas(98.20, 99.29, None)
    for backbone in ("wide_resnet50_2", "tf_efficientnet_lite0", "resnet18d"):
        assert find_published("carpet", backbone) == Areas(98.73, 99.25, 97.70)
