"""The report: one file with everything in it, and what it states."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.layouts import Sample, open_dataset
from cflow_ad.errors import DataError
from cflow_ad.evaluation._charts import score_chart
from cflow_ad.evaluation._wording import compare_alarms
from cflow_ad.evaluation.evaluation import FalseAlarms
from cflow_ad.evaluation.metrics import binomial_interval
from cflow_ad.evaluation.report import write_report
from tests.evaluation.synthetic import ABOUT, THRESHOLD, FakeDetector, measure


@dataclass
class Page:
    """A page: its source, its words, and its tags with their attributes."""

    source: str
    words: str
    tags: list[tuple[str, dict[str, str | None]]]

    def attributes(self, *names):
        return [value for _, tag in self.tags for key, value in tag.items() if key in names]

    @property
    def pictures(self):
        """The `img` tags that are not charts."""
        return [tag for name, tag in self.tags if name == "img" and tag.get("class") != "chart"]


class PageParser(HTMLParser):
    NO_END = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.words, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def read(path):
    parser = PageParser()
    source = path.read_text(encoding="utf-8")
    parser.feed(source)
    parser.close()
    assert parser.open == []
    words = re.sub(r"\s+", " ", " ".join(parser.words))
    return Page(source, re.sub(r" ([.,:;])", r"\1", words), parser.tags)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("carpet")
    write_carpet(root / "carpet", train=0, good=5, per_defect=3, size=96)
    return open_dataset(root / "carpet")


@pytest.fixture(scope="module")
def evaluation(dataset):
    return measure(dataset)


def page_of(evaluation, folder, examples=1):
    path = folder / "report.html"
    write_report(evaluation, FakeDetector(evaluation.dataset).predict, path, examples=examples)
    return read(path)


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    return page_of(evaluation, tmp_path_factory.mktemp("page"), examples=12)


def with_test(dataset, samples):
    return replace(dataset, test=tuple(samples))


# One file, by itself


def test_the_page_asks_for_nothing_from_outside(page):
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert all(src.startswith("data:image/") for src in page.attributes("src"))
    assert not page.attributes("srcset", "action", "formaction", "poster", "data")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert "default-src 'none'" in page.source


def test_every_link_leads_somewhere_and_every_picture_is_described(page):
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.attributes("href")} <= set(ids)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(image["alt"] for image in images)
    assert sum(image.get("class") == "chart" for image in images) == 5


def test_the_same_evaluation_gives_the_same_page(evaluation, tmp_path):
    pages = [page_of(evaluation, tmp_path).source for _ in range(2)]
    first, second = (re.sub(r"\d\d:\d\d UTC", "", source) for source in pages)
    assert first == second


# What it states


def test_the_verdict_comes_first(evaluation, page):
    confusion = evaluation.confusion
    found = f"{confusion.tp} of 15" if confusion.fn else "all 15"
    alarms = f"{confusion.fp} false alarm{'s' * (confusion.fp != 1)}"
    assert f"Finds {found} defective images, with {alarms} on 5 good images." in page.words
    assert page.words.index("Finds") < page.words.index("AUROC")


def test_the_numbers_are_those_of_the_evaluation(evaluation, page):
    image, pixel = evaluation.image, evaluation.pixel
    shown = [image.auroc, image.average_precision, image.best_f1]
    shown += [pixel.auroc, pixel.average_precision, pixel.best_f1, pixel.aupro]
    for result in evaluation.per_defect.values():
        shown += [result.image.auroc, result.pixel.auroc, result.pixel.aupro]
    for value in shown:
        assert f"{100 * value:.2f}" in page.words
    for name, result in evaluation.per_defect.items():
        found = round(3 * result.recall)
        assert f"{name} 3 {found} ({100 * result.recall:.0f}%)" in page.words


def test_the_model_its_calibration_and_the_data_are_on_record(page):
    assert ABOUT["calibration"]["note"] in page.words
    assert ABOUT["encoder"]["sha256"] in page.words
    assert ABOUT["training"]["fingerprint"] in page.words
    assert "8, 16, 32" in page.words


@pytest.mark.parametrize(
    ("count", "trials", "promised", "said"),
    [
        (1, 20, 0.05, "in agreement with the promised 5%."),
        (10, 20, 0.05, "This is more than the promised 5%"),
        (0, 1000, 0.05, "less than the promised 5%."),
        (0, 1000, math.nan, "with a 95% interval of 0% to 0.4%."),
    ],
)
def test_false_alarms_are_compared_with_the_promise(evaluation, count, trials, promised, said):
    alarms = FalseAlarms(count, trials, binomial_interval(count, trials), promised)
    words = compare_alarms(replace(evaluation, false_alarms=alarms))
    assert said in words
    assert f"{count} of {trials:,} good images" in words


@pytest.mark.parametrize("about", [{}, {"calibration": None, "odd": {"a": {"b": [1, None]}}}])
def test_a_detector_with_little_metadata_is_reported_too(evaluation, tmp_path, about):
    assert "How to read" in page_of(replace(evaluation, detector=about), tmp_path).words


def test_names_cannot_write_to_the_page(dataset, tmp_path):
    name = "<script>\"x\" & 'y'</script>"
    samples = [s if s.is_good else replace(s, label=name) for s in dataset.test]
    found = measure(replace(with_test(dataset, samples), name=name))
    found = replace(
        found,
        skipped=((f"/elsewhere/{name}", f"not {name}"),),
        detector={name: name, "settings": {name: [name]}},
    )
    page = page_of(found, tmp_path)
    assert "<script" not in page.source
    assert page.words.count(name) >= 6
    assert any(name in alt for alt in page.attributes("alt"))


# Any test set


def test_without_masks_pixels_are_not_defined_and_it_says_why(dataset, tmp_path):
    bare = with_test(dataset, [replace(sample, mask=None) for sample in dataset.test])
    page = page_of(measure(bare), tmp_path)
    assert "No defective test image has a mask" in page.words
    assert "nan" not in page.words


@pytest.mark.parametrize("good", [True, False])
def test_one_kind_of_images(dataset, tmp_path, good):
    page = page_of(
        measure(with_test(dataset, [s for s in dataset.test if s.is_good == good])), tmp_path
    )
    assert f"There are no {'defective' if good else 'good'} test images" in page.words
    assert "nan" not in page.words


def test_one_image(dataset, tmp_path):
    alone = with_test(dataset, [next(s for s in dataset.test if s.label == "hole")])
    page = page_of(measure(alone), tmp_path)
    assert "nan" not in page.words
    assert len(page.pictures) == 3


@pytest.mark.parametrize(
    ("good", "defect", "threshold"),
    [([0.0, 0.0], [0.0], 0.0), ([THRESHOLD], [THRESHOLD], THRESHOLD), ([], [69.0, 1e-9], 0.5)],
)
def test_any_scores_have_a_histogram(good, defect, threshold):
    chart = score_chart(np.array(good), np.array(defect), threshold=threshold, best=math.nan)
    assert "Histogram" in chart.description


def test_skipped_images_are_listed(evaluation, tmp_path):
    path = str(evaluation.dataset.root / "test/hole/lost.png")
    skipped = ((path, f"{path}: the file is empty; copy it again"),)
    words = page_of(replace(evaluation, skipped=skipped), tmp_path).words
    assert "Skipped images: 1" in words
    assert "test/hole/lost.png the file is empty; copy it again" in words


# Pictures


def test_only_images_that_are_shown_are_predicted_and_once(evaluation, dataset, tmp_path):
    detector = FakeDetector(dataset)
    write_report(evaluation, detector.predict, tmp_path / "report.html", examples=2)
    page = read(tmp_path / "report.html")
    assert len(detector.asked) == len(set(detector.asked)) == len(page.pictures) / 3
    assert len(detector.asked) <= 6


def test_the_worst_come_first(evaluation, tmp_path):
    records = sorted(evaluation.images, key=lambda record: record.score)
    defects = [record for record in records if not record.sample.is_good]
    missed = {record.sample.path for record in defects[:3]}
    images = tuple(
        replace(r, is_anomalous=not r.sample.is_good and r.sample.path not in missed)
        for r in evaluation.images
    )
    confusion = replace(evaluation.confusion, tp=12, fn=3)
    changed = replace(evaluation, images=images, confusion=confusion)
    words = page_of(changed, tmp_path, examples=3).words
    names = [r.sample.path.relative_to(evaluation.dataset.root).as_posix() for r in defects[:3]]
    places = [words.index(name) for name in names]
    assert "3 misses" in words
    assert places == sorted(places)
    assert max(places) < words.index("Typical images")


def test_every_kind_is_shown(evaluation, page):
    for label in (*evaluation.dataset.defects, "good"):
        assert f"test/{label}/" in page.words


def test_a_picture_is_no_larger_than_the_page_needs(tmp_path):
    root = tmp_path / "big"
    (root / "test" / "good").mkdir(parents=True)
    Image.new("RGB", (1500, 450), "grey").save(root / "test" / "good" / "a.png")
    page = page_of(measure(open_dataset(root)), tmp_path)
    assert sum(len(tag["src"]) for tag in page.pictures) < 50_000
    assert "elongated" in page.source


def test_a_missing_image_leaves_a_note(evaluation, tmp_path):
    record = replace(evaluation.images[0], sample=Sample(Path("/nowhere/<gone>.png"), "good"))
    page = page_of(replace(evaluation, images=(record,)), tmp_path)
    assert "could not be shown: there is no such file" in page.words
    assert "/nowhere/<gone>.png" in page.words


# Writing


def test_a_report_replaces_the_one_before_and_one_that_fails_leaves_it(evaluation, tmp_path):
    def fail(path):
        raise KeyboardInterrupt

    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_report(evaluation, fail, path)
    assert path.read_text() == "old"
    page_of(evaluation, tmp_path)
    assert path.read_text(encoding="utf-8") != "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_missing_is_named(evaluation, tmp_path):
    with pytest.raises(DataError, match="missing"):
        page_of(evaluation, tmp_path / "missing")
