"""An export gives the trained model's results, or is refused."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from cflow_ad import (
    CalibrationWarning,
    DataError,
    DependencyError,
    Detector,
    ExportError,
    Settings,
    SettingsError,
)
from cflow_ad.data.layouts import open_dataset
from cflow_ad.export import bounds, timing
from cflow_ad.export import export as module
from cflow_ad.export.check import gather
from cflow_ad.export.export import export_model
from cflow_ad.export.files import suffix_of, write_file
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.quantise import _minima, _observe, _quantised, quantise
from cflow_ad.export.timing import Times
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.scoring.threshold import calibrate_thresholds
from tests.golden import exported as exported_module
from tests.golden.exported import export_golden, exported_file, golden_detector, onnx_graph
from tests.golden.images import good_images

VARIANTS = {
    "plain": {},
    "one level, no condition": {"strides": (8,), "position_channels": 0},
    "two positions at the last level": {"strides": (8, 16, 32), "average": (8,)},
    "raw vectors, soft": {"whiten": False, "permutation": "soft", "join": False},
    "smoothing": {"smoothing": 2.0},
    "the paper's positions and score": {
        "positions": "absolute",
        "place_means": False,
        "place_scales": 0.0,
        "image_score": "peak",
    },
    "resnet": {"backbone": "resnet10t"},
}


def fit(images, settings):
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu")


def change(settings, values):
    """Settings with some fields changed, of which some are of the method."""
    own = {name for name in values if hasattr(settings, name)}
    method = {name: value for name, value in values.items() if name not in own}
    return dataclasses.replace(
        settings,
        **{name: values[name] for name in own},
        method=dataclasses.replace(settings.method, **method),
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_graphs_results_are_the_detectors_whatever_the_settings(images, toy_settings, name):
    settings = change(toy_settings, VARIANTS[name])
    detector = fit([image[:height] for image in images[:4] for height in (96, 48)], settings)
    for shape in ((64, 64), (32, 64)):
        pixels = [image[: shape[0], : shape[1]] for image in images[:3]]
        batch = torch.from_numpy(np.stack(pixels)).float()
        for canvas in (None, shape):
            graph = ExportGraph(detector.model, settings, canvas)
            with torch.inference_mode():
                maps, scores, *_ = graph(batch)
            for image, found, score in zip(pixels, maps, scores, strict=True):
                expected = detector.predict(image)
                np.testing.assert_allclose(found, expected.anomaly_map, rtol=1e-4, atol=1e-4)
                assert float(score) == pytest.approx(expected.score, rel=1e-4)


def test_the_default_backbone_scores_the_same_at_every_size(tiny_detector, images, tmp_path):
    exported = RuntimeDetector.load(export_model(tiny_detector, tmp_path / "m.onnx").path)
    rng = np.random.default_rng(0)
    strangers = [
        *images[:3],
        images[3][:40],
        images[4][:, :30],
        images[5][..., 0],
        np.asarray(Image.fromarray(images[6]).resize((300, 200))),
        rng.uniform(0, 255, (70, 110)).astype(np.float32),
    ]
    pairs = zip(tiny_detector.stream(strangers), exported.stream(strangers), strict=True)
    for ours, theirs in pairs:
        unit = max(1.0, ours.score)
        assert abs(ours.score - theirs.score) < 1e-4 * unit
        assert ours.anomaly_map.shape == theirs.anomaly_map.shape
        assert ours.is_anomalous == theirs.is_anomalous
        assert [r.box for r in ours.regions] == [r.box for r in theirs.regions]
        assert np.abs(ours.anomaly_map - theirs.anomaly_map).max() < 1e-4 * unit


def test_a_torch_program_takes_a_canvas_of_one_cell(images, toy_settings, tmp_path):
    detector = fit(images[:4], change(toy_settings, {"strides": (8, 16, 32)}))
    report = export_model(detector, tmp_path / "m.pt2", format="torch")
    exported = RuntimeDetector.load(report.path)
    for image in (images[4][:, :20], images[4][:20], images[4][:20, :20]):
        expected = detector.predict(image).score
        assert exported.predict(image).score == pytest.approx(expected, rel=1e-4)


def test_any_number_of_aspect_ratios_can_be_exported(images, toy_settings, tmp_path):
    """Also as many tables of means as there are parts along a side, 16 at a stride of 16."""
    detector = fit(images, toy_settings)
    means = detector.model.levels[1].means
    more = torch.randn(16, *means.tables.shape[1:], generator=torch.Generator().manual_seed(0))
    means.tables, means.aspects = more, torch.arange(-7.0, 8.0)
    assert export_model(detector, tmp_path / "m.onnx").change.largest < 1e-4


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_images_of_the_usual_size_score_as_trained_whatever_their_aspect_ratio(
    images, toy_settings, tmp_path, size
):
    """OpenVINO has a program for their canvas, in which all that depends on it is computed once."""
    some = [np.asarray(Image.fromarray(image).resize(size)) for image in images]
    detector = fit(some, dataclasses.replace(toy_settings, size="128x128"))
    exported = RuntimeDetector.load(
        export_model(detector, tmp_path / "m.xml", format="openvino").path
    )
    negative = 255 - some[0]
    expected = detector.predict(negative).score
    assert exported.predict(negative).score == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("side", [128, 512])
def test_without_data_an_export_is_compared_on_images_of_the_usual_canvas(
    images, toy_settings, side
):
    some = [np.asarray(Image.fromarray(image).resize((64, 48))) for image in images[:3]]
    detector = fit(some, dataclasses.replace(toy_settings, size=f"{side}x{side}"))
    material = gather(detector, None, None, needs_ranges=False)
    shapes = {detector.view.prepare(image).shape for image in material.compared}
    assert shapes == {(side * 3 // 4, side)} == {tuple(detector.training["canvas"])}


def test_one_canvas_is_the_default_where_there_is_only_one():
    for size, resize, expected in (
        ("80x150", "stretch", (96, 160)),
        ("80x150", "pad", (96, 160)),
        ("80x150", "fit", None),
        ("96x160", "snap", None),
        ("native", "snap", None),
        ("longest=160", "snap", None),
    ):
        sizing = Settings(size=size, resize=resize).sizing
        assert module._canvas(None, sizing) == expected
        assert module._canvas("dynamic", sizing) is None
        assert module._canvas("96x160", sizing) == (96, 160)
    with pytest.raises(SettingsError, match=r"size 96x170: .* multiples of 32 up to 64x160"):
        module._canvas("96x170", Settings(size="80x150").sizing)


def test_a_graph_that_gives_other_results_is_refused_and_leaves_nothing(tmp_path):
    golden = golden_detector()
    model = copy.deepcopy(golden.model)
    next(iter(model)).location.add_(1.0)
    other = Detector(
        model, settings=golden.settings, calibration=golden.calibration, training=golden.training
    )
    (tmp_path / "old.onnx").write_text("what was there before")
    with pytest.raises(ExportError, match=r"fp32 graph does not give the model's results"):
        export_golden(tmp_path / "old.onnx", other, size="64x64", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "what was there before"


def test_a_lower_precision_beyond_its_bound_is_refused_unless_forced(
    carpet_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(bounds.BOUNDS, "bf16", 1e-9)
    options = {"precision": "bf16", "size": "64x64", "data": open_dataset(carpet_folder)}
    with pytest.raises(ExportError, match=r"allowed 1e-09.*--force"):
        export_golden(tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
    report = export_golden(tmp_path / "m.onnx", force=True, **options)
    assert report.change.auroc[0][0] == "image"
    assert report.change.mean > 1e-9


def test_a_graph_slower_than_fp32_is_refused_unless_forced(carpet_folder, tmp_path, monkeypatch):
    options = {"precision": "bf16", "size": "64x64", "data": open_dataset(carpet_folder)}
    monkeypatch.setattr(exported_module, "run_both_once", lambda *_: Times(9.0, 3.0, 3.0, "fp32"))
    with pytest.raises(ExportError, match=r"slower than fp32.*9\.0 ms.*3\.0.*--force"):
        export_golden(tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
    report = export_golden(tmp_path / "m.onnx", force=True, **options)
    assert report.times.ratio == 3


def test_two_graphs_are_timed_in_turns(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def take(name, seconds):
        order.append(name)
        now[0] += seconds

    times = timing.time_side_by_side(
        lambda: take("own", 0.002), lambda: take("other", 0.004), "fp32"
    )
    assert (times.own, times.other, times.ratio) == pytest.approx((2, 4, 0.5))
    assert order == ["own", "own", "other", "other"] * 17  # the first of each is not timed
    order.clear()
    timing.time_side_by_side(lambda: take("own", 20), lambda: take("other", 20), "fp32")
    assert len(order) == 12  # one round is timed in any case


def test_a_model_that_scores_in_bf16_says_how_to_bring_it_to_fp32(toy_detector, tmp_path):
    settings = dataclasses.replace(toy_detector.settings, precision="bf16")
    detector = Detector(
        toy_detector.model, settings=settings, calibration=toy_detector.calibration, training={}
    )
    with pytest.raises(SettingsError, match="calibrate MODEL GOOD --precision fp32"):
        export_model(detector, tmp_path / "m.onnx")


def test_half_the_bits_are_half_the_file(tmp_path):
    size = {}
    for precision in ("fp32", "fp16", "bf16"):
        path = tmp_path / f"{precision}.onnx"
        write_file(onnx_graph((64, 64)), path, {}, format="onnx", precision=precision)
        size[precision] = path.stat().st_size
    assert size["fp16"] < 0.75 * size["fp32"]
    assert size["bf16"] < 0.75 * size["fp32"]


# The threshold of an export below fp32


@pytest.fixture(scope="module")
def good_folder(images, tmp_path_factory):
    """25 good images."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(25):
        image = np.roll(images[number % len(images)], 7 * number, axis=number % 2)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def with_one_excluded(good_folder, toy_settings):
    with pytest.warns(CalibrationWarning):
        return Detector.fit(good_folder, toy_settings, device="cpu", exclude=["03.png"])


def test_the_threshold_of_an_export_is_set_on_images_that_nothing_was_fitted_to(
    with_one_excluded, good_folder, images, tmp_path
):
    """Of a folder with training images, one that was excluded from training, and new ones."""
    mixed = tmp_path / "mixed"
    shutil.copytree(good_folder, mixed)
    unseen = [mixed / f"new-{number}.png" for number in range(4)]
    for path, image in zip(unseen, images, strict=False):
        Image.fromarray(image[::-1]).save(path)
    with pytest.warns(CalibrationWarning, match="lowest possible"):  # 4 images for a rate of 0.01
        report = export_model(
            with_one_excluded,
            tmp_path / "m.onnx",
            precision="int8",
            size="64x64",
            data=open_dataset(mixed),
            force=True,
        )
    exported = RuntimeDetector.load(report.path)
    found = list(exported.stream(unseen))
    expected = calibrate_thresholds(
        [p.score for p in found],
        [float(p.anomaly_map.max()) for p in found],
        with_one_excluded.settings.false_alarm_rate,
    )
    assert report.calibration == exported.calibration == expected


def test_without_unseen_images_an_export_keeps_the_threshold_and_says_so(
    with_one_excluded, good_folder, tmp_path
):
    with pytest.warns(CalibrationWarning, match="the threshold is that of the trained model"):
        report = export_model(
            with_one_excluded,
            tmp_path / "m.onnx",
            precision="bf16",
            size="64x64",
            data=open_dataset(good_folder),
            force=True,
        )
    assert report.calibration == with_one_excluded.calibration
    assert report.change.n_images > 0
    assert 0 < report.change.mean <= report.change.largest


def test_ranges_and_thresholds_share_no_image(with_one_excluded, good_folder, images, tmp_path):
    own = gather(with_one_excluded, open_dataset(good_folder), None, needs_ranges=True)
    assert len(own.ranges) == 24
    assert not own.unseen
    assert not any(path.name == "03.png" for path in (*own.ranges, *own.compared))
    for number, image in enumerate(images[:10]):
        Image.fromarray(image[:, ::-1]).save(tmp_path / f"{number}.png")
    others = open_dataset(tmp_path)
    new = gather(with_one_excluded, others, None, needs_ranges=True)
    assert (len(new.ranges), len(new.unseen)) == (2, 8)
    assert not set(new.ranges) & set(new.unseen)
    plain = gather(with_one_excluded, others, None, needs_ranges=False)
    assert (len(plain.ranges), len(plain.unseen)) == (0, 10)
    with pytest.raises(DataError, match="has the size of the export"):
        gather(with_one_excluded, others, (32, 64), needs_ranges=False)


def test_good_test_images_are_compared_before_those_of_training(
    with_one_excluded, good_folder, images, tmp_path
):
    shutil.copytree(good_folder, tmp_path / "train" / "good")
    for name, image in {
        "good/0": images[0][::-1],
        "hole/1": images[1],
        "hole/2": images[2],
    }.items():
        path = tmp_path / "test" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    data = gather(with_one_excluded, open_dataset(tmp_path), None, needs_ranges=True)
    assert len(data.ranges) == 24
    assert [path.name for path in data.compared] == ["0.png", "1.png", "2.png"]
    assert data.n_good == 1


# Libraries


@pytest.mark.parametrize(("format", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_library_that_is_missing_is_reported_before_the_work(
    toy_detector, tmp_path, monkeypatch, format, library
):
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / f"m{suffix_of(format)}"
    with pytest.raises(DependencyError, match=rf"{library}.*pip install 'cflow-ad"):
        export_model(toy_detector, path, format=format)


def test_a_runtime_that_is_missing_is_reported(monkeypatch):
    path = exported_file(size="64x64")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"onnxruntime.*'cflow-ad\[runtime\]'"):
        RuntimeDetector.load(path)


# What int8 quantises


@pytest.mark.parametrize("canvas", [None, (64, 64)])
def test_the_first_levels_layers_and_the_whitening_are_not_quantised(canvas):
    model = onnx_graph(canvas)
    chosen = _quantised(model, 8)
    weights = {
        node.input[1] for node in model.graph.node if node.name in chosen and node.op_type == "Conv"
    }
    levels = {name for name in weights if "levels." in name}
    encoder = weights - levels
    assert len([name for name in levels if "levels.0." in name]) == 2 * 2  # blocks, layers
    assert [name for name in levels if "levels.1." in name] == ["folded.levels.1.density.vectors"]
    assert encoder
    assert all("encoder" in name for name in encoder)
    assert not any(".blocks.1." in name or "conv_stem" in name for name in encoder)


def test_the_least_product_with_a_memory_is_found_in_int8_with_a_range_of_its_own():
    model = onnx_graph((64, 64))
    images = [image[None].astype(np.float32) for image in good_images(8)]
    (product, least), *others = _minima(model).items()
    assert not others
    quantised = quantise(model, "onnx", images, stride=8)
    node = next(node for node in quantised.graph.node if node.op_type == "ReduceMin")
    before = next(one for one in quantised.graph.node if node.input[0] in one.output)
    assert before.op_type == "QuantizeLinear"
    found = _observe(model, [least, product], images)
    least_ones, every = ([0.0, found[name].low, found[name].high] for name in (least, product))
    scale = next(of for of in quantised.graph.initializer if of.name == before.input[1])
    assert onnx.numpy_helper.to_array(scale) * 255 == pytest.approx(np.ptp(least_ones), rel=0.01)
    assert np.ptp(every) > 2 * np.ptp(least_ones)


def test_a_layer_is_quantised_where_what_it_reads_is_as_coarse_as_the_first_level():
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["image", "encoder.a"], ["by_4"], name="stem", strides=[4, 4]),
        make("Conv", ["by_4", "encoder.b"], ["wide"], name="wide"),
        make("Relu", ["wide"], ["bent"], name="bend"),
        make("MaxPool", ["bent"], ["by_8"], name="pool", strides=[2, 2], kernel_shape=[2, 2]),
        make("Conv", ["by_8", "encoder.c"], ["level"], name="level"),
        make("Relu", ["level"], ["cut"], name="cut"),
        make("Conv", ["cut", "encoder.d"], ["by_16"], name="next", strides=[2, 2]),
        # A dynamic size may be read off the deepest layer.
        make("Shape", ["by_16"], ["size"], name="shape"),
        make("Expand", ["wide", "size"], ["wider"], name="expand"),
        make("Conv", ["wider", "encoder.e"], ["other"], name="fine"),
        make("Conv", ["by_16", "levels.0.mixing"], ["energy_0"], name="mix"),
    ]
    output = onnx.helper.make_tensor_value_info("energy_0", onnx.TensorProto.FLOAT, None)
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [output]))
    assert _quantised(model, 8) == {"level", "cut", "next"}
    assert _quantised(model, 4) == {"wide", "bend", "level", "cut", "next", "fine"}
