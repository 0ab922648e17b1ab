"""The published figures are copied without a slip: they add up to what was published of all."""

from __future__ import annotations

import statistics

import pytest

from cflow_ad.evaluation.published import (
    MVTEC_CLASSES,
    RESNET18,
    WIDE_RESNET50,
    Areas,
    published_for,
)


def mean(published, area):
    return statistics.fmean(areas[area] for areas in published.areas.values())


@pytest.mark.parametrize(
    ("published", "means"),
    [(WIDE_RESNET50, (98.26, 98.62, 94.60)), (RESNET18, (96.75, 98.06, None))],
)
def test_the_means_are_those_of_the_paper(published, means):
    for area, expected in enumerate(means):
        if expected is None:
            assert all(areas[area] is None for areas in published.areas.values())
        else:
            # The paper's own means are rounded here and cut off there.
            assert mean(published, area) == pytest.approx(expected, abs=0.0099)
            assert all(80 < areas[area] <= 100 for areas in published.areas.values())


def test_every_class_has_its_figures():
    assert len(MVTEC_CLASSES) == 15
    assert list(MVTEC_CLASSES) == sorted(MVTEC_CLASSES)
    assert MVTEC_CLASSES.keys() == WIDE_RESNET50.areas.keys() == RESNET18.areas.keys()
    assert WIDE_RESNET50.areas["carpet"] == Areas(98.73, 99.25, 97.70)
    assert RESNET18.areas["carpet"] == Areas(98.20, 99.29, None)


def test_the_images_are_as_many_as_in_mvtec_ad():
    counts = [each.counts for each in MVTEC_CLASSES.values()]
    assert [sum(column) for column in zip(*counts, strict=True)] == [3629, 467, 1258]
    assert MVTEC_CLASSES["bottle"].counts == (209, 20, 63)


def test_the_paper_has_three_sizes():
    sides = {each.side: [] for each in MVTEC_CLASSES.values()}
    for each in MVTEC_CLASSES.values():
        sides[each.side].append(each.name)
    assert sides[256] == ["cable", "capsule", "hazelnut", "metal_nut", "pill"]
    assert sides[128] == ["transistor"]
    assert len(sides[512]) == 9


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18.tv_in1k"])
def test_a_resnet18_is_compared_with_its_own_figures_first(backbone):
    assert published_for(backbone) == (RESNET18, WIDE_RESNET50)


@pytest.mark.parametrize("backbone", ["wide_resnet50_2", "tf_efficientnet_lite0", "resnet18d"])
def test_any_other_backbone_is_compared_with_the_papers_main_one(backbone):
    assert published_for(backbone) == (WIDE_RESNET50,)
