"""An export gives the trained model's results, or is refused."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from cflow_ad import (
    CalibrationWarning,
    DependencyError,
    Detector,
    ExportError,
    ImageError,
    Settings,
    SettingsError,
)
from cflow_ad.cflow.evidence import Evidence
from cflow_ad.data.layouts import open_dataset
from cflow_ad.export import export as module
from cflow_ad.export.export import export_model
from cflow_ad.export.files import suffix_of
from cflow_ad.export.graph import ExportGraph
from cflow_ad.export.program import to_onnx, trace
from cflow_ad.export.quantise import _quantised
from cflow_ad.runtime import Detector as RuntimeDetector

VARIANTS = {
    "plain": {},
    "no condition, one level": {"position_channels": 0, "strides": (8,)},
    "index, raw": {"permutation": "index", "input_layer": "raw"},
    "standardise, rough": {"input_layer": "standardise", "smoothing": 0.0},
    "not fine": {"fine": False},
    "one mean": {"local_mean": False},
    "no neighbourhood": {"neighbourhood": 1},
    "neighbourhood everywhere": {"neighbourhood_from": 0},
    "default backbone": {"backbone": "tf_efficientnet_lite0", "weights": None},
    "resnet": {"backbone": "resnet10t", "strides": (8, 16)},
}


def fit(images, settings):
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shape", [(64, 64), (32, 64)])
def test_the_graph_is_the_network_whatever_the_settings(images, toy_settings, name, shape):
    settings = dataclasses.replace(toy_settings, **VARIANTS[name])
    detector = fit(images[:6], settings)
    graph = ExportGraph(detector.network, (64, 64), smoothing=settings.smoothing)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, *shape, 3)).astype(np.float32))
    with torch.inference_mode():
        _, score, *normalities = graph(pixels)
        for ours, theirs in zip(normalities, detector.network(pixels), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for number in range(3) if shape == (64, 64) else ():
        image = pixels[number].numpy().astype(np.uint8)
        assert float(score[number]) == pytest.approx(detector.predict(image).score, rel=1e-4)


def test_images_of_several_aspect_ratios_keep_their_means(images, toy_settings, tmp_path):
    """In training, in a file and in an export for all sizes."""
    shapes = [image[:height] for image in images for height in (96, 48)]
    detector = fit(shapes, toy_settings)
    assert [len(level.means.aspects) for level in detector.network.levels] == [2, 2]
    detector.save(tmp_path / "m.safetensors")
    loaded = Detector.load(tmp_path / "m.safetensors", device="cpu")
    exported = RuntimeDetector.load(export_model(detector, tmp_path / "m.onnx").path)
    strangers = [images[0], images[1][:48], images[2][:70], images[3][:, :40]]
    for image in strangers:
        score = detector.predict(image).score
        assert loaded.predict(image).score == pytest.approx(score, rel=1e-5)
        assert exported.predict(image).score == pytest.approx(score, rel=1e-3)
    for one, alone in zip(detector.stream(strangers, batch_size=4), strangers, strict=True):
        assert one.score == pytest.approx(detector.predict(alone).score, rel=1e-5)


def test_a_native_model_is_exported_for_one_size(images, toy_settings, tmp_path):
    detector = fit(images[:4], dataclasses.replace(toy_settings, size="native"))
    with pytest.raises(ExportError, match=r"size native: .* with --size HEIGHTxWIDTH"):
        export_model(detector, tmp_path / "model.onnx", size=None)


def test_a_native_model_with_relative_positions_is_exported_for_one_size(
    images, toy_settings, tmp_path
):
    settings = dataclasses.replace(toy_settings, size="native", positions="relative")
    detector = fit([image[:64, :90] for image in images], settings)
    report = export_model(detector, tmp_path / "model.onnx", size="64x96")
    assert report.change.largest < 1e-4
    exported = RuntimeDetector.load(report.path)
    assert exported.predict(images[0][:64, :90]).anomaly_map.shape == (64, 90)
    with pytest.raises(ImageError, match="exported for 64 x 96 alone"):
        exported.predict(images[0])


def test_the_default_backbone_scores_the_same_at_every_size(tiny_detector, images, tmp_path):
    export_model(tiny_detector, tmp_path / "m.onnx")
    exported = RuntimeDetector.load(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    strangers = [
        *images[:3],
        images[3][:40],
        images[4][:, :30],
        images[5][..., 0],
        np.asarray(Image.fromarray(images[6]).resize((300, 200))),
        rng.integers(0, 65536, (70, 110)).astype(np.uint16),
    ]
    pairs = zip(tiny_detector.stream(strangers), exported.stream(strangers), strict=True)
    for ours, theirs in pairs:
        unit = max(1.0, ours.score)
        assert ours.anomaly_map.shape == theirs.anomaly_map.shape
        assert ours.is_anomalous == theirs.is_anomalous
        assert [r.box for r in ours.regions] == [r.box for r in theirs.regions]
        assert np.abs(ours.anomaly_map - theirs.anomaly_map).max() < 1e-4 * unit


@pytest.mark.parametrize("size", ["192x192", "dynamic"])
def test_coarse_levels_are_exported(images, toy_settings, tmp_path, size):
    settings = dataclasses.replace(toy_settings, size="192x192", coarse=3, coarse_from=0)
    detector = fit(images[:6], settings)
    assert export_model(detector, tmp_path / "m.onnx", size=size).change.largest < 1e-4
    exported = RuntimeDetector.load(tmp_path / "m.onnx")
    shapes = [images[0], images[1][:40]] if size == "dynamic" else [images[0]]
    for image in shapes:
        ours, theirs = detector.predict(image), exported.predict(image)
        np.testing.assert_allclose(theirs.anomaly_map, ours.anomaly_map, atol=1e-4)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_what_the_levels_say_of_the_whole_image_is_exported(images, toy_settings, tmp_path, format):
    """On canvases whose small sides are not a third of theirs too."""
    strides = (8, 16, 32)
    settings = dataclasses.replace(toy_settings, size="128x128", strides=strides, coarse=3)
    plain = fit(images[:6], settings)
    rng = np.random.default_rng(0)
    detector = Detector(
        plain.network,
        settings=settings,
        calibration=plain.calibration,
        training=plain.training,
        evidence=Evidence.of(rng.lognormal(1, 1, (20, 6))),
    )
    path = tmp_path / f"m{suffix_of(format)}"
    assert export_model(detector, path, format=format).change.largest < 1e-4
    exported = RuntimeDetector.load(path)
    assert exported.evidence == detector.evidence
    for image in (images[0], images[1][:60], images[2][:, :70]):
        ours, theirs = detector.predict(image), exported.predict(image)
        np.testing.assert_allclose(theirs.anomaly_map, ours.anomaly_map, rtol=1e-3, atol=1e-4)
        assert ours.score != pytest.approx(plain.predict(image).score, rel=1e-3)
    graph = ExportGraph(
        detector.network,
        (128, 128),
        smoothing=settings.smoothing,
        weights=settings.level_weights,
        evidence=detector.evidence,
    )
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 128, 128, 3)).astype(np.float32))
    with torch.inference_mode():
        anomaly_map, score, *_ = graph(pixels)
    for number in range(2):
        ours = detector.predict(pixels[number].numpy().astype(np.uint8))
        assert float(score[number]) == pytest.approx(ours.score, rel=1e-4)
        assert float(anomaly_map[number].max()) == float(score[number])


def test_one_canvas_is_the_default_where_there_is_only_one():
    for resize, expected in (
        ("stretch", (96, 160)),
        ("pad", (96, 160)),
        ("fit", None),
        ("snap", None),
    ):
        sizing = Settings(size="80x150", resize=resize).sizing
        assert module._canvas(None, sizing) == expected
        assert module._canvas("dynamic", sizing) is None
        assert module._canvas("96x160", sizing) == (96, 160)


def test_a_graph_that_gives_other_results_is_refused_and_leaves_nothing(
    toy_detector, tmp_path, monkeypatch
):
    honest = module._graph

    def wrong(*arguments):
        graph, box = honest(*arguments)
        graph.levels[0].reference += 0.01
        return graph, box

    (tmp_path / "old.onnx").write_text("what was there before")
    monkeypatch.setattr(module, "_graph", wrong)
    with pytest.raises(ExportError, match=r"fp32 graph does not give the model's results"):
        export_model(toy_detector, tmp_path / "old.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "what was there before"


def test_a_lower_precision_beyond_its_bound_is_refused_unless_told(
    toy_detector, carpet_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(module.BOUNDS, "bf16", 1e-9)
    data = open_dataset(carpet_folder)
    options = {"precision": "bf16", "data": data}
    with pytest.raises(ExportError, match=r"allowed 1e-09.*--force"):
        export_model(toy_detector, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
    report = export_model(toy_detector, tmp_path / "m.onnx", force=True, **options)
    assert report.change.auroc[0][0] == "image"
    assert report.change.mean > 1e-9


def test_a_model_that_scores_in_bf16_says_how_to_bring_it_to_fp32(toy_detector, tmp_path):
    settings = dataclasses.replace(toy_detector.settings, precision="bf16")
    detector = Detector(
        toy_detector.network, settings=settings, calibration=toy_detector.calibration, training={}
    )
    with pytest.raises(SettingsError, match="calibrate MODEL GOOD --precision fp32"):
        export_model(detector, tmp_path / "m.onnx")


def test_half_the_bits_are_half_the_file(toy_detector, tmp_path):
    sizes = {
        precision: export_model(
            toy_detector, tmp_path / "m.onnx", precision=precision, force=True
        ).n_bytes
        for precision in ("fp32", "fp16", "bf16")
    }
    assert sizes["fp16"] < 0.75 * sizes["fp32"]
    assert sizes["bf16"] < 0.75 * sizes["fp32"]


def test_the_threshold_of_int8_is_that_of_its_own_held_out_scores(
    toy_detector, carpet_folder, tmp_path
):
    data = open_dataset(carpet_folder)
    report = export_model(
        toy_detector, tmp_path / "m.onnx", precision="int8", data=data, force=True
    )
    exported = RuntimeDetector.load(tmp_path / "m.onnx")
    scores = [p.score for p in exported.stream([s.path for s in data.train])]
    assert exported.threshold == report.calibration.threshold
    assert any(score == pytest.approx(exported.threshold, rel=1e-3) for score in scores)
    assert report.calibration.n_images == 2


@pytest.mark.parametrize(("format", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_library_that_is_missing_is_said_before_the_work(
    toy_detector, tmp_path, monkeypatch, format, library
):
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / f"m{suffix_of(format)}"
    with pytest.raises(DependencyError, match=rf"{library}.*pip install 'cflow-ad"):
        export_model(toy_detector, path, format=format)


def test_a_runtime_that_is_missing_is_said(toy_detector, tmp_path, monkeypatch):
    export_model(toy_detector, tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"onnxruntime.*'cflow-ad\[runtime\]'"):
        RuntimeDetector.load(tmp_path / "m.onnx")


def test_all_but_the_first_levels_layers_and_the_whitening_is_quantised(images, toy_settings):
    detector = fit(images[:6], toy_settings)
    graph = ExportGraph(detector.network, (64, 64), smoothing=4.0)
    model = to_onnx(trace(graph, (64, 64), (64, 64), 32), (8, 16))
    chosen = _quantised(model)
    weights = {
        name
        for node in model.graph.node
        if node.name in chosen
        for name in node.input
        if name.startswith("encoder.")
    }
    first_blocks = {name for name in weights if ".blocks.1." in name or "conv_stem" in name}
    assert weights
    assert not first_blocks
    whitening = next(n.name for n in model.graph.node if n.op_type == "MatMul")
    assert whitening not in chosen


def test_a_layer_whose_shape_alone_matters_to_the_first_level_is_quantised():
    """A dynamic size may be read off the deepest layer, of which all would then be ancestors."""
    nodes = [
        onnx.helper.make_node("Conv", ["image", "encoder.a"], ["shallow"], name="first"),
        onnx.helper.make_node("Conv", ["shallow", "encoder.b"], ["deep"], name="second"),
        onnx.helper.make_node("Shape", ["deep"], ["shape"], name="shape"),
        onnx.helper.make_node("Expand", ["shallow", "shape"], ["normality_8"], name="level"),
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("anomaly_map", "score", "normality_8")
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [], outputs)
    assert _quantised(onnx.helper.make_model(graph)) == {"second"}
