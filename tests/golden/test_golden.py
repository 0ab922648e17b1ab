"""One set of images, every way to run a model: the same scores and the same decisions."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import openvino
import pytest

from cflow_ad import Detector
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.runtime.backends import output_names
from tests.golden.exported import exported_file, golden_detector
from tests.golden.images import MODEL, golden_images, golden_scores, good_images

# Relative to a score of at least 1. Below fp32 scores far beyond the threshold are not compared;
# there only the decision counts. int8 moves scores of this random backbone by up to a half.
BOUNDS = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.7}
WAYS = [
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("torch", "fp32"),
    ("onnx", "fp16"),
    ("openvino", "fp16"),
    ("onnx", "bf16"),
    ("openvino", "bf16"),
    ("onnx", "int8"),
    ("openvino", "int8"),
]


@functools.cache
def exported(format, precision="fp32"):
    return RuntimeDetector.load(exported_file(format, precision))


def check(predictions, threshold, bound):
    stored = golden_scores()
    assert len(predictions) == len(stored)
    for (name, score), prediction in zip(stored.items(), predictions, strict=True):
        if score < 2 * threshold or bound <= 1e-3:
            assert prediction.score == pytest.approx(score, rel=bound, abs=bound), name
        assert prediction.is_anomalous == (score > threshold), name
        assert prediction.mask.any() == prediction.is_anomalous


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trained_model_scores_as_it_did_when_it_was_stored(precision):
    detector = Detector.load(MODEL, device="cpu", precision=precision)
    predictions = list(detector.stream(golden_images().values()))
    check(predictions, detector.threshold, max(BOUNDS[precision], 1e-3))


@pytest.mark.parametrize(("format", "precision"), WAYS)
def test_every_export_scores_so_and_decides_the_same(format, precision):
    trained, detector = golden_detector(), exported(format, precision)
    images = golden_images().values()
    predictions = list(detector.stream(images, batch_size=5))
    check(predictions, trained.threshold, max(BOUNDS[precision], 1e-3))
    if precision == "fp32":
        assert detector.calibration == trained.calibration
        for ours, theirs in zip(trained.stream(images), predictions, strict=True):
            unit = max(1.0, ours.score)
            assert theirs.score == pytest.approx(ours.score, rel=1e-4, abs=1e-4)
            np.testing.assert_allclose(
                ours.anomaly_map, theirs.anomaly_map, rtol=0, atol=1e-4 * unit
            )
            assert [r.box for r in ours.regions] == [r.box for r in theirs.regions]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_two_products_of_int8_fit_into_16_bits(format):
    """Processors without VNNI add two, of an activation up to 255 each, before they widen."""
    weights = _int8_weights(exported_file(format, "int8"))
    assert len(weights) > 7  # of the encoder's convolutions and the subnets'
    assert all(2 * 255 * abs(values.astype(np.int32)).max() < 2**15 for values in weights)


def test_an_int8_file_holds_no_tensor_that_is_not_used():
    """The runtime would warn of each at every load."""
    graph = onnx.load(exported_file("onnx", "int8")).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def _int8_weights(path):
    if path.suffix == ".onnx":
        stored = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
    else:
        graph = openvino.Core().read_model(path)
        stored = (node.data for node in graph.get_ops() if node.get_type_name() == "Constant")
    return [values for values in stored if values.dtype == np.int8 and values.ndim > 1]


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
def test_the_graph_gives_an_image_the_same_alone_and_in_a_batch(format):
    backend = exported(format).backend
    names = output_names(2)
    pixels = np.stack(good_images(5, seed=3)).astype(np.float32)
    together = backend.run(pixels, names)
    for number in range(5):
        alone = backend.run(pixels[number : number + 1], names)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
def test_the_graphs_own_map_and_score_are_the_detectors_at_its_size(format):
    """For callers that have no Python: an image of the canvas's size needs nothing else."""
    backend = exported(format).backend
    for image in (*good_images(2, seed=5), good_images(1, seed=6)[0][:32], golden_images()["hole"]):
        expected = golden_detector().predict(image)
        pixels = image[None].astype(np.float32)
        anomaly_map, score = backend.run(pixels, ["anomaly_map", "score"])
        np.testing.assert_allclose(anomaly_map[0], expected.anomaly_map, rtol=1e-4, atol=1e-4)
        assert float(score[0]) == pytest.approx(expected.score, rel=1e-4)
