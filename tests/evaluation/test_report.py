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
from cflow_ad.evaluation.evaluate import FalseAlarms
from cflow_ad.evaluation.metrics import Confusion, binomial_interval
from cflow_ad.evaluation.report import write_report
from tests.evaluation.synthetic import DETECTOR, THRESHOLD, Detector, measure


@dataclass
class Page:
    """A page as a reader has it: its words, and what its tags say."""

    source: str
    words: str
    tags: list[tuple[str, dict[str, str | None]]]

    def attributes(self, *names):
        return [value for _, tag in self.tags for key, value in tag.items() if key in names]


class PageParser(HTMLParser):
    NO_END = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.words, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.NO_END:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

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
    return measure(dataset, Detector(dataset).predict)


def page_of(evaluation, tmp_path, **kwargs):
    path = tmp_path / "report.html"
    write_report(evaluation, Detector(evaluation.dataset).predict, path, **kwargs)
    return read(path)


def with_test(dataset, samples):
    return replace(dataset, test=tuple(samples))


def with_calibration(evaluation, **changes):
    calibration = {**DETECTOR["calibration"], **changes}
    promised = calibration["achieved_rate"]
    return replace(
        evaluation,
        detector={**DETECTOR, "calibration": calibration},
        false_alarms=replace(evaluation.false_alarms, promised=promised),
    )


# One file, by itself


def test_the_page_asks_for_nothing_from_outside(evaluation, tmp_path):
    page = page_of(evaluation, tmp_path)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert all(link.startswith("#") for link in page.attributes("href", "xlink:href"))
    assert all(src.startswith("data:image/") for src in page.attributes("src"))
    assert not page.attributes("srcset", "action", "formaction", "poster", "data")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert "default-src 'none'" in page.source


def test_every_link_leads_somewhere(evaluation, tmp_path):
    page = page_of(evaluation, tmp_path)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.attributes("href")} <= set(ids)


def test_every_picture_is_described_and_readable(evaluation, tmp_path):
    page = page_of(evaluation, tmp_path)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images
    assert all(image["alt"] for image in images)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in charts)


# What it says


def test_the_verdict_comes_first(evaluation, tmp_path):
    confusion = evaluation.confusion
    page = page_of(evaluation, tmp_path)
    found = f"{confusion.tp} of 15" if confusion.fn else "all 15"
    alarms = f"{confusion.fp} false alarm{'s' * (confusion.fp != 1)}"
    assert f"Finds {found} defective images, with {alarms} on 5 good ones." in page.words
    assert page.words.index("Finds") < page.words.index("AUROC")


def test_the_numbers_are_those_of_the_evaluation(evaluation, tmp_path):
    words = page_of(evaluation, tmp_path).words
    image, pixel = evaluation.image, evaluation.pixel
    shown = [image.auroc, image.average_precision, image.best_f1]
    shown += [pixel.auroc, pixel.average_precision, pixel.best_f1, pixel.aupro]
    for result in evaluation.per_defect.values():
        shown += [result.image.auroc, result.pixel.auroc, result.pixel.aupro]
    for value in shown:
        assert f"{100 * value:.2f}" in words
    for name, result in evaluation.per_defect.items():
        found = round(3 * result.recall)
        assert f"{name} 3 {found} ({100 * result.recall:.0f}%)" in words


def test_a_promise_that_falls_short_is_said_plainly(evaluation, tmp_path):
    words = page_of(evaluation, tmp_path).words
    assert "promises to call at most 4.8% of good images" in words
    assert "more than the 1% asked for" in words
    assert "the 20 good images held out of training allow no less, and 1% takes 99" in words


def test_a_promise_that_is_kept_is_not_excused(evaluation, tmp_path):
    kept = with_calibration(evaluation, false_alarm_rate=0.05)
    words = page_of(kept, tmp_path).words
    assert "promises to call at most 4.8% of good images" in words
    assert "5% was asked for" in words
    assert "allow no less" not in words


def test_a_threshold_set_on_training_images_promises_nothing(evaluation, tmp_path):
    words = page_of(with_calibration(evaluation, held_out=False, n_images=3), tmp_path).words
    assert "set on the 3 good images that the model learned from" in words
    assert "promises no false-alarm rate" in words
    assert "agrees with the promise" not in words
    assert "promised rate," not in words


@pytest.mark.parametrize(
    ("count", "trials", "promised", "said"),
    [
        (1, 20, 0.05, "agrees with the promise"),
        (10, 20, 0.05, "more than promised"),
        (0, 1000, 0.05, "less than promised"),
        (0, 1000, math.nan, "between 0% and 0.4%"),
    ],
)
def test_false_alarms_are_held_against_the_promise(
    evaluation, tmp_path, count, trials, promised, said
):
    alarms = FalseAlarms(count, trials, binomial_interval(count, trials), promised)
    words = page_of(replace(evaluation, false_alarms=alarms), tmp_path).words
    assert said in words
    assert f"{count} of {trials:,} good images" in words


def test_the_model_and_the_data_are_on_record(evaluation, tmp_path):
    words = page_of(evaluation, tmp_path).words
    assert DETECTOR["encoder"]["sha256"] in words
    assert DETECTOR["training"]["fingerprint"] in words
    assert "tf_efficientnet_lite0" in words
    assert "8, 16, 32" in words
    assert "0.1.0" in words


@pytest.mark.parametrize(
    "detector", [{}, {"calibration": {}}, {"calibration": None, "odd": {"a": {"b": [1, None]}}}]
)
def test_a_detector_that_says_little_is_reported_all_the_same(evaluation, tmp_path, detector):
    assert "How to read" in page_of(replace(evaluation, detector=detector), tmp_path).words


def test_names_cannot_write_to_the_page(dataset, tmp_path):
    name = "<script>\"x\" & 'y'</script>"
    samples = [s if s.is_good else replace(s, label=name) for s in dataset.test]
    wild = replace(with_test(dataset, samples), name=name)
    found = measure(wild, Detector(wild).predict)
    found = replace(
        found,
        skipped=((f"/elsewhere/{name}", f"not {name}"),),
        detector={name: name, "settings": {name: [name]}},
    )
    page = page_of(found, tmp_path)
    assert "<script" not in page.source
    assert page.words.count(name) >= 6
    assert any(name in alt for alt in page.attributes("alt"))


# Whatever there is


def test_without_masks_pixels_are_not_defined_and_it_says_why(dataset, tmp_path):
    bare = with_test(dataset, [replace(sample, mask=None) for sample in dataset.test])
    page = page_of(measure(bare, Detector(dataset).predict), tmp_path)
    assert "No defective image has a ground-truth mask" in page.words
    assert "Not defined for pixels (–): no defective image has a mask." in page.words
    assert "its images have no masks" in page.attributes("title")
    assert "nan" not in page.words


def test_good_images_alone(dataset, tmp_path):
    calm = with_test(dataset, [s for s in dataset.test if s.is_good])
    page = page_of(measure(calm, Detector(calm).predict), tmp_path)
    assert "on 5 good images." in page.words
    assert "There are no defective images in the test set" in page.words
    assert "Not defined (–): there are no defective test images." in page.words
    assert "nan" not in page.words


def test_defects_alone(dataset, tmp_path):
    harsh = with_test(dataset, [s for s in dataset.test if not s.is_good])
    page = page_of(measure(harsh, Detector(harsh).predict), tmp_path)
    assert "There are no good images in the test set" in page.words
    assert "nan" not in page.words


@pytest.mark.parametrize("label", ["good", "hole"])
def test_one_image(dataset, tmp_path, label):
    alone = with_test(dataset, [next(s for s in dataset.test if s.label == label)])
    page = page_of(measure(alone, Detector(alone).predict), tmp_path)
    assert "nan" not in page.words
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3


def test_nothing_found(dataset, tmp_path):
    blind = Detector(dataset, strength=0)
    found = measure(dataset, blind.predict)
    none = replace(found, confusion=Confusion(tp=0, fp=0, tn=5, fn=15))
    assert "Finds 0 of 15 defective images" in page_of(none, tmp_path).words


def test_scores_that_are_all_the_same_have_a_histogram(evaluation, tmp_path):
    for score in (0.0, THRESHOLD, 69.0):
        images = tuple(replace(record, score=score) for record in evaluation.images)
        page = page_of(replace(evaluation, images=images), tmp_path, examples=1)
        assert any("Histogram" in (label or "") for label in page.attributes("aria-label"))


def test_thousands_of_images_make_a_small_page(evaluation, tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for record in evaluation.images * 250:
        score = float(np.exp(rng.normal(0.2 if record.sample.is_good else 2, 0.5)))
        images.append(replace(record, score=score, is_anomalous=score > THRESHOLD))
    page = page_of(replace(evaluation, images=tuple(images)), tmp_path, examples=2)
    without_pictures = re.sub(r'data:image[^"]*', "", page.source)
    assert len(without_pictures) < 100_000


def test_skipped_images_are_listed(evaluation, tmp_path):
    path = str(evaluation.dataset.root / "test/hole/lost.png")
    skipped = ((path, f"{path}: the file is empty; copy it again"),)
    words = page_of(replace(evaluation, skipped=skipped), tmp_path).words
    assert "1 skipped image" in words
    assert "test/hole/lost.png the file is empty; copy it again" in words


# Pictures


def test_only_images_that_are_shown_are_predicted_and_once(evaluation, dataset, tmp_path):
    detector = Detector(dataset)
    path = tmp_path / "report.html"
    write_report(evaluation, detector.predict, path, examples=2)
    shown = [tag for tag, _ in read(path).tags if tag == "img"]
    assert len(detector.asked) == len(set(detector.asked)) == len(shown) / 3
    assert len(detector.asked) <= 6


def test_the_worst_come_first(evaluation, tmp_path):
    records = sorted(evaluation.images, key=lambda record: record.score)
    defects = [record for record in records if not record.sample.is_good]
    called = {record.sample.path: False for record in defects[:3]}
    images = tuple(
        replace(r, is_anomalous=called.get(r.sample.path, not r.sample.is_good))
        for r in evaluation.images
    )
    words = page_of(replace(evaluation, images=images), tmp_path).words
    names = [r.sample.path.relative_to(evaluation.dataset.root).as_posix() for r in defects[:3]]
    places = [words.index(name) for name in names]
    assert "3 misses" in words
    assert places == sorted(places)
    assert max(places) < words.index("Typical images")


def test_every_kind_is_shown(evaluation, tmp_path):
    words = page_of(evaluation, tmp_path).words
    for label in (*evaluation.dataset.defects, "good"):
        assert f"test/{label}/" in words


def test_a_picture_is_no_larger_than_the_page_needs(tmp_path):
    root = tmp_path / "big"
    (root / "test" / "good").mkdir(parents=True)
    Image.new("RGB", (3000, 900), "grey").save(root / "test" / "good" / "a.png")
    big = open_dataset(root)
    page = page_of(measure(big, Detector(big).predict), tmp_path)
    assert len(page.source) < 100_000
    assert "elongated" in page.source


def test_an_image_that_is_gone_leaves_a_note(evaluation, tmp_path):
    record = evaluation.images[0]
    gone = replace(record, sample=Sample(Path("/nowhere/<gone>.png"), "good"))
    page = page_of(replace(evaluation, images=(gone,)), tmp_path)
    assert "could not be shown: there is no such file" in page.words
    assert "/nowhere/<gone>.png" in page.words


# Writing


def test_a_report_replaces_the_one_before(evaluation, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    page_of(evaluation, tmp_path, examples=1)
    assert path.read_text(encoding="utf-8") != "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_one_before(evaluation, tmp_path):
    def fail(path):
        raise KeyboardInterrupt

    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_report(evaluation, fail, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_missing_is_named(evaluation, tmp_path):
    with pytest.raises(DataError, match="missing"):
        page_of(evaluation, tmp_path / "missing", examples=1)
