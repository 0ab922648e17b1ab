"""What is made of the rows of a benchmark: means, spreads, differences, and the page."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from cflow_ad import Settings
from cflow_ad.evaluation.benchmark_page import area_text, to_markdown
from cflow_ad.evaluation.benchmark_summary import Failure, Row, Summary
from cflow_ad.evaluation.published import MVTEC_CLASSES, RESNET18, WIDE_RESNET50, Areas, Counts


def row(name, seed=0, areas=(99.0, 98.0, 95.0), counts=None):
    return Row(
        name=name,
        seed=seed,
        size="256x256",
        counts=counts or MVTEC_CLASSES[name].counts,
        areas=Areas(*areas),
        reference=Areas(*(None if area is None else area - 1 for area in areas)),
        found=50,
        false_alarms=seed,
        promised=0.02,
        seconds=(10.0, 2.0),
        fingerprint="",
        weights="some_net (some package)",
        machine="torch 2 on cpu",
    )


def summary(*rows, settings=None, **more):
    return Summary("1.0", settings or Settings(), False, rows, **more)


@pytest.fixture
def values():
    """Areas of 3 classes and 4 seeds, shape (3, 4, 3)."""
    return np.random.default_rng(0).uniform(80, 100, (3, 4, 3))


@pytest.fixture
def full(values):
    names = ("carpet", "bottle", "zipper")
    return summary(
        *(row(name, seed, values[i, seed]) for seed in range(4) for i, name in enumerate(names))
    )


def test_a_class_has_mean_spread_and_difference(full, values):
    lines = {line.name: line.cells for line in full.compare(WIDE_RESNET50)}
    assert list(lines) == ["bottle", "carpet", "zipper", "mean of 3"]
    for name, of_class in zip(("carpet", "bottle", "zipper"), values, strict=True):
        for area, cell in enumerate(lines[name]):
            published = WIDE_RESNET50.areas[name][area]
            assert cell.measured.mean == pytest.approx(of_class[:, area].mean())
            assert cell.measured.deviation == pytest.approx(of_class[:, area].std(ddof=1))
            assert cell.published == published
            assert cell.difference == pytest.approx(of_class[:, area].mean() - published)


def test_the_mean_is_over_the_classes_at_hand_and_its_spread_over_the_seeds(full, values):
    mean = full.compare(WIDE_RESNET50)[-1]
    for area, cell in enumerate(mean.cells):
        of_seeds = values[:, :, area].mean(axis=0)
        published = np.mean([WIDE_RESNET50.areas[n][area] for n in ("bottle", "carpet", "zipper")])
        assert cell.measured.mean == pytest.approx(of_seeds.mean())
        assert cell.measured.deviation == pytest.approx(of_seeds.std(ddof=1))
        assert cell.published == pytest.approx(published)
        assert cell.difference == pytest.approx(of_seeds.mean() - published)


def test_the_authors_scores_are_compared_apart(full):
    own, reference = full.compare(WIDE_RESNET50), full.compare(WIDE_RESNET50, reference=True)
    for line, other in zip(own, reference, strict=True):
        for cell, of_reference in zip(line.cells, other.cells, strict=True):
            assert of_reference.measured.mean == pytest.approx(cell.measured.mean - 1)
            assert of_reference.measured.deviation == pytest.approx(cell.measured.deviation)
            assert of_reference.published == cell.published
    page = to_markdown(full)
    assert "## Scored as the paper's code does, beside its WideResNet-50-2" in page
    assert area_text(reference[0].cells[0].measured.mean) in page


def test_one_seed_has_no_spread():
    for line in summary(row("bottle"), row("carpet", 1)).compare(WIDE_RESNET50):
        assert all(cell.measured.deviation is None for cell in line.cells)


def test_a_mean_with_a_hole_in_it_is_no_mean():
    rows = [row("bottle"), row("carpet", areas=(99.0, None, None))]
    bottle, carpet, mean = summary(*rows).compare(WIDE_RESNET50)
    assert bottle.cells[1].measured.mean == 98.0
    for cell in (carpet.cells[1], mean.cells[1], mean.cells[2]):
        assert cell.measured.mean is None
        assert cell.difference is None
    assert mean.cells[0].measured.mean == 99.0


def test_what_was_not_published_has_no_difference():
    line, _ = summary(row("bottle")).compare(RESNET18)
    assert (line.cells[2].published, line.cells[2].difference) == (None, None)
    assert line.cells[2].measured.mean == 95.0


def test_a_summary_is_plain_json(full):
    told = json.loads(full.to_json())
    assert told == full.to_dict()
    assert told["classes"]["carpet"]["seeds"] == [0, 1, 2, 3]
    beside = told["beside"]["WideResNet-50-2"]["carpet"]["pixel AUROC"]
    assert beside["published"] == 99.25
    assert beside["difference"] == pytest.approx(beside["mean"] - 99.25)


def tables(page):
    """The cells of each table of a page."""
    found = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in found
    ]


def test_the_page_has_a_row_for_each_class(full):
    page = to_markdown(full, {"carpet": "pictures/carpet.png"})
    areas, _, alarms = tables(page)
    assert all(len(cells) == len(table[0]) for table in (areas, alarms) for cells in table)
    assert [cells[0] for cells in areas[2:]] == ["bottle", "carpet", "zipper", "**mean of 3**"]
    cell = full.compare(WIDE_RESNET50)[1].cells[0]
    expected = f"{cell.measured.mean:.2f} ± {cell.measured.deviation:.2f}"
    assert areas[3][2:5] == [expected, "98.73", f"{cell.difference:+.2f}"]
    assert alarms[2] == ["bottle", "256x256", "209", "50 / 63", "1.5 / 20", "2%", "10"]
    assert "![carpet](pictures/carpet.png)" in page
    assert "nothing is selected on test images" in page


def test_a_threshold_without_held_out_images_promises_nothing():
    bare = dataclasses.replace(row("bottle"), promised=None)
    assert tables(to_markdown(summary(bare)))[-1][2][5] == "–"
    assert tables(to_markdown(summary(row("bottle"))))[-1][2][5] == "2%"


def test_a_resnet18_has_a_table_beside_each_of_the_papers_backbones():
    page = to_markdown(summary(row("bottle"), settings=Settings(backbone="resnet18")))
    assert page.index("paper's ResNet-18") < page.index("paper's WideResNet-50-2")
    assert tables(page)[0][2][2:5] == ["99.00", "100.00", "-1.00"]
    assert tables(page)[0][2][8:] == ["95.00", "–", "–"]


def test_the_settings_that_differ_are_on_the_page():
    settings = Settings(steps=7, strides=(8, 16), seed=3, size="512x512")
    page = to_markdown(summary(settings=settings))
    assert "but for `strides=8,16`, `size=512x512`, `steps=7`." in page
    assert "No class is finished yet." in page
    page = to_markdown(Summary("1.0", settings, True, ()))
    assert "512x512" not in page
    assert "each class at the size it has in the paper" in page


def test_other_images_than_the_official_ones_are_pointed_out():
    own = row("carpet", counts=Counts(100, 20, 40))
    assert "official" not in (page := to_markdown(summary(row("bottle"))))
    assert "does not compare" not in page
    page = to_markdown(summary(row("bottle"), own))
    assert "the images of carpet are not those of MVTec AD" in page
    assert summary(own).to_dict()["classes"]["carpet"]["images_are_official"] is False


def test_failures_and_what_is_left_out_are_on_the_page():
    failures = (Failure("wood", 2, "x.png: damaged"),)
    page = to_markdown(summary(row("bottle"), failures=failures, absent=("pill", "screw")))
    assert "- wood, seed 2: x.png: damaged" in page
    assert "Left out: pill, screw." in page
