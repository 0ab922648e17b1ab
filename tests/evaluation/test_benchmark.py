"""A benchmark measures what training and evaluation measure, and loses nothing that is done."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from cflow_ad import CalibrationWarning, DataError, Detector, SettingsError, WeightsError, evaluate
from cflow_ad.data.layouts import open_dataset
from cflow_ad.evaluation import benchmark as module
from cflow_ad.evaluation import figures
from cflow_ad.evaluation.benchmark import Benchmark, Watcher, find_classes


@pytest.fixture(scope="session")
def classes(carpet_folder, tmp_path_factory):
    """Two small classes, each of the same carpet; not to be changed."""
    folder = tmp_path_factory.mktemp("mvtec")
    for name in ("bottle", "carpet"):
        shutil.copytree(carpet_folder, folder / name)
    return folder


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    monkeypatch.setattr(module, "draw_panels", lambda _, *, path, **__: path.write_bytes(b""))


@pytest.fixture
def settings(toy_settings):
    return dataclasses.replace(toy_settings, steps=2)


@pytest.fixture
def data(classes, tmp_path):
    """A copy of the two classes, to be spoilt."""
    return shutil.copytree(classes, tmp_path / "data")


class Seen(Watcher):
    """What a benchmark told."""

    def __init__(self, stop_at=None):
        self.begun, self.ended, self.stages, self.stop_at = [], [], set(), stop_at

    def begin(self, job, number, total):
        self.begun.append((job.name, job.settings.seed, job.settings.size))

    def training(self, progress):
        self.stages.add(progress.stage)
        if self.stop_at == (self.begun[-1][:2], progress.stage):
            raise KeyboardInterrupt

    def evaluating(self, done, total):
        self.stages.add("evaluate")

    def end(self, outcome):
        self.ended.append(outcome)


def measure(out, data, settings, seeds=1, wanted=(), seen=None, **options):
    return Benchmark(out, settings, **options).run(
        find_classes(data, wanted), seeds, device="cpu", watcher=seen
    )


def told(out):
    return json.loads((out / "benchmark.json").read_text(encoding="utf-8"))


def numbers(summary):
    return {(row.name, row.seed): (row.areas, row.found, row.false_alarms) for row in summary.rows}


@pytest.fixture(scope="module")
def whole(classes, toy_settings, tmp_path_factory):
    """The summary and the folder of both classes with two seeds, and what was told on the way."""
    out, seen = tmp_path_factory.mktemp("whole") / "out", Seen()
    settings = dataclasses.replace(toy_settings, steps=2)
    return measure(out, classes, settings, seeds=2, seen=seen), out, seen


def test_a_row_is_what_training_and_evaluation_give(whole, classes, settings):
    summary, _, _ = whole
    dataset = open_dataset(classes / "bottle")
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(dataset, dataclasses.replace(settings, seed=1), device="cpu")
    result = evaluate(detector, dataset)
    (row,) = (row for row in summary.rows if (row.name, row.seed) == ("bottle", 1))
    expected = (result.image.auroc, result.pixel.auroc, result.pixel.aupro)
    assert row.areas == tuple(100 * area for area in expected)
    assert (row.found, row.false_alarms) == (result.confusion.tp, result.confusion.fp)
    assert row.counts == (12, 4, 5)
    assert row.promised == detector.calibration.achieved_rate


def test_every_class_and_seed_is_measured_and_written(whole):
    summary, out, seen = whole
    jobs = [("bottle", 0), ("bottle", 1), ("carpet", 0), ("carpet", 1)]
    assert [begun[:2] for begun in seen.begun] == jobs
    assert [(row.name, row.seed) for row in seen.ended] == jobs
    assert numbers(summary).keys() == set(jobs)
    assert seen.stages == {"encode", "screen", "train", "calibrate", "evaluate"}
    assert not summary.failures
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "benchmark.json",
        "benchmark.md",
        "pictures/bottle.png",
        "pictures/carpet.png",
        "results/bottle-0.json",
        "results/bottle-1.json",
        "results/carpet-0.json",
        "results/carpet-1.json",
    ]
    assert not (out / "work").exists()
    assert told(out) == summary.to_dict()
    assert summary.absent[:3] == ("cable", "capsule", "grid")


def test_a_result_has_the_score_of_every_image(whole, classes):
    _, out, _ = whole
    values = json.loads((out / "results" / "carpet-1.json").read_text(encoding="utf-8"))
    assert len(values["evaluation"]["images"]) == len(open_dataset(classes / "carpet").test)
    assert values["evaluation"]["detector"]["settings"]["seed"] == 1


def test_the_picture_outlines_at_the_best_f1_of_the_pixels(
    classes, settings, tmp_path, monkeypatch
):
    drawn = {}

    def draw(panels, **more):
        drawn.update(more, panels=panels)
        figures.draw_panels(panels, **more)

    monkeypatch.setattr(module, "draw_panels", draw)
    measure(tmp_path / "out", classes, settings, wanted=["carpet"])
    values = json.loads((tmp_path / "out" / "results" / "carpet-0.json").read_text("utf-8"))
    threshold = values["evaluation"]["pixel"]["best_f1_threshold"]
    assert drawn["threshold"] == threshold != values["evaluation"]["threshold"]
    titles = [panel.title for panel in drawn["panels"]]
    assert titles == ["good", *sorted(values["evaluation"]["per_defect"])]
    for panel in drawn["panels"]:
        assert (panel.predicted_mask == (panel.anomaly_map > threshold)).all()
        assert (panel.truth is None) == (panel.title == "good")
    with Image.open(tmp_path / "out" / "pictures" / "carpet.png") as picture:
        assert min(picture.size) > 500


# Going on


def copied(whole, tmp_path):
    return shutil.copytree(whole[1], tmp_path / "out")


def test_what_is_finished_is_not_measured_again(whole, classes, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Detector, "fit", None)
    seen = Seen()
    summary = measure(copied(whole, tmp_path), classes, settings, seeds=2, seen=seen)
    assert seen.begun == []
    assert summary == whole[0]


def test_more_seeds_and_classes_are_added(whole, classes, settings, tmp_path):
    seen, out = Seen(), tmp_path / "out"
    measure(out, classes, settings, wanted=["carpet"], seen=seen)
    assert told(out)["classes"].keys() == {"carpet"}
    summary = measure(out, classes, settings, seeds=2, seen=seen)
    assert [begun[:2] for begun in seen.begun] == [
        ("carpet", 0),
        ("bottle", 0),
        ("bottle", 1),
        ("carpet", 1),
    ]
    assert numbers(summary) == numbers(whole[0])


@pytest.mark.parametrize("stage", ["encode", "train", "calibrate"])
def test_an_interruption_loses_no_finished_class(whole, classes, settings, tmp_path, stage):
    out, seen = tmp_path / "out", Seen(stop_at=(("carpet", 0), stage))
    with pytest.raises(KeyboardInterrupt):
        measure(out, classes, settings, seeds=2, seen=seen)
    assert told(out)["classes"].keys() == {"bottle"}
    assert "| bottle | 2 |" in (out / "benchmark.md").read_text(encoding="utf-8")
    seen = Seen()
    summary = measure(out, classes, settings, seeds=2, seen=seen)
    assert [begun[:2] for begun in seen.begun] == [("carpet", 0), ("carpet", 1)]
    assert numbers(summary) == numbers(whole[0])
    assert not (out / "work").exists()


def test_a_class_that_was_interrupted_goes_on_within_its_training(
    whole, classes, settings, tmp_path
):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        measure(out, classes, settings, seen=Seen(stop_at=(("bottle", 0), "calibrate")))
    seen = Seen()
    steps = []
    seen.training = lambda progress: steps.append((progress.stage, progress.done))
    summary = measure(out, classes, settings, wanted=["bottle"], seen=seen)
    assert steps[0] == ("encode", 10)  # all are encoded already
    assert summary.rows[0].areas == whole[0].rows[0].areas


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 99}'])
def test_a_spoilt_result_is_measured_again(whole, classes, settings, tmp_path, text):
    out, seen = copied(whole, tmp_path), Seen()
    (out / "results" / "bottle-1.json").write_text(text)
    (out / "results" / "stray.json").write_text(text)
    summary = measure(out, classes, settings, seeds=2, seen=seen)
    assert [begun[:2] for begun in seen.begun] == [("bottle", 1)]
    assert numbers(summary) == numbers(whole[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 3}, "steps is 2 there and 3 now"),
        ({"size": "96x96"}, "size is 64x64 there and 96x96 now"),
        ({"strides": (8,), "blocks": 1}, "blocks is 2 there and 1 now; strides is"),
    ],
)
def test_results_of_other_settings_are_not_mixed(whole, settings, tmp_path, changes, said):
    out = copied(whole, tmp_path)
    before = (out / "benchmark.json").read_bytes()
    with pytest.raises(DataError) as caught:
        Benchmark(out, dataclasses.replace(settings, **changes))
    assert str(caught.value).startswith(f"{out}: has results of other settings ({said}")
    assert "-o" in str(caught.value)
    assert (out / "benchmark.json").read_bytes() == before


def test_results_of_another_version_or_of_other_sizes_are_not_mixed(
    whole, settings, tmp_path, monkeypatch
):
    out = copied(whole, tmp_path)
    with pytest.raises(DataError, match="paper_sizes is False there and True now"):
        Benchmark(out, settings, paper_sizes=True)
    monkeypatch.setattr(module, "__version__", "99.0")
    with pytest.raises(DataError, match=r"version is .* there and 99\.0 now"):
        Benchmark(out, settings)


@pytest.mark.parametrize("text", ["", "[]", '{"mine": 1}', '{"settings": 1}'])
def test_a_folder_of_something_else_is_left_alone(settings, tmp_path, text):
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(DataError, match="not of this command"):
        Benchmark(tmp_path, settings)
    assert (tmp_path / "benchmark.json").read_text() == text
    with pytest.raises(DataError, match="this is a file"):
        Benchmark(tmp_path / "benchmark.json", settings)


@pytest.mark.parametrize("split", ["train", "test"])
def test_results_of_other_images_are_not_mixed(whole, data, settings, tmp_path, split):
    out = copied(whole, tmp_path)
    image = data / "carpet" / split / "good" / "000.png"
    image.rename(image.with_name("new.png")) if split == "train" else image.unlink()
    with pytest.raises(DataError) as caught:
        measure(out, data, settings)
    assert str(caught.value).startswith(f"{out / 'results' / 'carpet-0.json'}: measured on other")
    assert str(data / "carpet") in str(caught.value)


# Failures


def test_a_mask_that_does_not_fit_is_known_before_the_training(data, settings, tmp_path):
    mask = next((data / "bottle" / "ground_truth").rglob("*.png"))
    Image.new("L", (10, 12)).save(mask)
    seen = Seen()
    summary = measure(tmp_path / "out", data, settings, wanted=["bottle"], seen=seen)
    assert str(mask) in summary.failures[0].reason
    assert not seen.stages


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_that_cannot_be_read_is_reported_and_the_others_go_on(
    whole, classes, data, settings, tmp_path, split
):
    broken = data / "bottle" / split / "good" / "000.png"
    broken.write_bytes(b"no image")
    out, seen = tmp_path / "out", Seen()
    summary = measure(out, data, settings, seeds=2, seen=seen)
    assert [(failure.name, failure.seed) for failure in summary.failures] == [("bottle", 0)]
    assert str(broken) in summary.failures[0].reason
    assert seen.ended[0] == summary.failures[0]
    assert told(out)["failures"][0]["class"] == "bottle"
    assert str(broken) in (out / "benchmark.md").read_text(encoding="utf-8")
    assert {row.name for row in summary.rows} == {"carpet"}

    shutil.copy(classes / "bottle" / split / "good" / "000.png", broken)
    seen = Seen()
    summary = measure(out, data, settings, seeds=2, seen=seen)
    assert [begun[:2] for begun in seen.begun] == [("bottle", 0), ("bottle", 1)]
    assert not summary.failures
    assert numbers(summary) == numbers(whole[0])


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), MemoryError(), RuntimeError("a\nb")]
)
def test_what_goes_wrong_in_one_class_does_not_stop_the_others(
    classes, settings, tmp_path, monkeypatch, error
):
    fit = Detector.fit

    def fail(dataset, *more, **options):
        if dataset.name == "bottle":
            raise error
        return fit(dataset, *more, **options)

    monkeypatch.setattr(Detector, "fit", fail)
    summary = measure(tmp_path / "out", classes, settings)
    assert [failure.name for failure in summary.failures] == ["bottle"]
    assert summary.failures[0].reason
    assert "\n" not in summary.failures[0].reason
    assert [row.name for row in summary.rows] == ["carpet"]


def test_what_no_class_could_do_stops_at_once(classes, settings, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        measure(tmp_path / "out", classes, dataclasses.replace(settings, weights="nowhere.pth"))
    with pytest.raises(SettingsError, match="at most"):
        measure(tmp_path / "a", classes, dataclasses.replace(settings, seed=2**32 - 1), seeds=2)
    assert not (tmp_path / "a").exists()


def test_a_set_without_test_images_fails_before_its_training(data, settings, tmp_path):
    for name in ("test", "ground_truth"):
        shutil.rmtree(data / "bottle" / name)
    seen = Seen()
    summary = measure(tmp_path / "out", data, settings, wanted=["bottle"], seen=seen)
    assert "no images to evaluate on" in summary.failures[0].reason
    assert seen.stages == set()
    assert summary.rows == ()


def test_a_set_without_masks_has_no_pixel_areas_and_a_picture_all_the_same(
    data, settings, tmp_path
):
    shutil.rmtree(data / "bottle" / "ground_truth")
    summary = measure(tmp_path / "out", data, settings, wanted=["bottle"])
    assert summary.rows[0].areas[1:] == (None, None)
    assert summary.rows[0].areas.image_auroc is not None
    assert (tmp_path / "out" / "pictures" / "bottle.png").exists()
    assert told(tmp_path / "out")["classes"]["bottle"]["values"]["AUPRO"] == [None]


# Classes and sizes


def test_the_papers_sizes_are_taken_for_each_class(tmp_path, settings, monkeypatch):
    for name in ("bottle", "cable", "transistor"):
        (tmp_path / "data" / name).mkdir(parents=True)
    seen = Seen()
    measure(tmp_path / "out", tmp_path / "data", settings, seen=seen, paper_sizes=True)
    assert [size for _, _, size in seen.begun] == ["512x512", "256x256", "128x128"]


def test_the_seeds_follow_the_first(classes, settings, tmp_path):
    seen = Seen(stop_at=(("bottle", 6), "encode"))
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, classes, dataclasses.replace(settings, seed=5), seeds=3, seen=seen)
    assert [begun[1] for begun in seen.begun] == [5, 6]


def test_classes_are_found_in_a_folder_of_them(tmp_path):
    for name in ("zipper", "bottle", "metal_nut", "banana"):
        (tmp_path / name).mkdir()
    (tmp_path / "license.txt").write_text("")
    assert find_classes(tmp_path) == {
        name: tmp_path / name for name in ("bottle", "metal_nut", "zipper")
    }
    assert list(find_classes(tmp_path, ["zipper", "bottle"])) == ["zipper", "bottle"]


def test_a_folder_may_be_one_class(classes, tmp_path, monkeypatch):
    assert find_classes(classes / "carpet") == {"carpet": classes / "carpet"}
    own = shutil.copytree(classes / "carpet", tmp_path / "my data")
    with pytest.raises(DataError, match="say with --classes which"):
        find_classes(own)
    with pytest.raises(DataError, match="name the folder that the classes are in"):
        find_classes(own, ["carpet", "grid"])
    assert find_classes(own, ["grid"]) == {"grid": own}
    monkeypatch.chdir(classes / "bottle")
    assert list(find_classes(module.Path())) == ["bottle"]


def test_what_is_not_there_is_named(classes, tmp_path):
    with pytest.raises(DataError, match="data download mvtec"):
        find_classes(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no class of MVTec AD lies there"):
        find_classes(tmp_path)
    with pytest.raises(DataError, match="cable, wood is not there"):
        find_classes(classes, ["bottle", "cable", "wood"])
    with pytest.raises(SettingsError, match=r"'banana' is no class of MVTec AD.*zipper"):
        find_classes(classes, ["bottle", "banana"])
