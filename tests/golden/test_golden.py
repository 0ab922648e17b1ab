"""One set of images, every way to run a model: the same scores, and the same decisions."""

from __future__ import annotations

import functools
import shutil

import numpy as np
import onnx
import openvino
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.layouts import open_dataset
from cflow_ad.export.export import export_model
from cflow_ad.export.files import suffix_of
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.runtime.backends import output_names
from tests.golden.images import MODEL, golden_images, golden_scores, good_images

# Relative to a score of at least 1. What is far beyond the good images is left out of the bound
# below fp32, where only the decision counts.
BOUNDS = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.4}
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


@pytest.fixture(scope="module")
def trained():
    return Detector.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for number, image in enumerate(good_images(60)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def exported_file(trained, good_folder, tmp_path_factory):
    """Exports once what the tests ask for."""
    folder = tmp_path_factory.mktemp("exported")

    def export(format, precision):
        path = folder / f"{precision}{suffix_of(format)}"
        if not path.exists():
            data = None if precision == "fp32" else open_dataset(good_folder)
            export_model(trained, path, format=format, precision=precision, data=data)
        return path

    return export


@pytest.fixture(scope="module")
def exported(exported_file):
    """The detector of such a file."""
    return functools.cache(lambda *which: RuntimeDetector.load(exported_file(*which)))


def check(predictions, threshold, bound):
    stored = golden_scores()
    assert len(predictions) == len(stored)
    for (name, score), prediction in zip(stored.items(), predictions, strict=True):
        if score < 2 * threshold or bound <= 1e-3:
            assert prediction.score == pytest.approx(score, rel=bound, abs=bound), name
        assert prediction.is_anomalous == (score > threshold), name


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_trained_model_scores_as_it_did_when_it_was_stored(trained, batch_size):
    predictions = list(trained.stream(golden_images().values(), batch_size=batch_size))
    check(predictions, trained.threshold, 1e-3)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(("compiled", "precision"), [(True, "fp32"), (False, "bf16")])
def test_every_form_of_the_trained_model_scores_so(compiled, precision, batch_size):
    if compiled and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    detector = Detector.load(MODEL, device="cpu")
    detector.optimize(precision=precision, compiled=compiled)
    predictions = list(detector.stream(golden_images().values(), batch_size=batch_size))
    check(predictions, detector.threshold, 1e-3 if precision == "fp32" else BOUNDS[precision])


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(("format", "precision"), WAYS)
def test_every_export_scores_so_and_decides_the_same(
    trained, exported, format, precision, batch_size
):
    detector = exported(format, precision)
    images = golden_images().values()
    predictions = list(detector.stream(images, batch_size=batch_size))
    check(predictions, trained.threshold, max(BOUNDS[precision], 1e-3))
    if precision == "fp32":
        assert detector.threshold == trained.threshold
        for ours, theirs in zip(trained.stream(images), predictions, strict=True):
            unit = max(1.0, ours.score)
            np.testing.assert_allclose(
                ours.anomaly_map, theirs.anomaly_map, rtol=0, atol=BOUNDS["fp32"] * unit
            )
            assert [r.box for r in ours.regions] == [r.box for r in theirs.regions]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_two_products_of_int8_fit_into_16_bits(exported_file, format):
    """Processors without VNNI add two, of an activation up to 255 each, before they widen."""
    weights = _int8_constants(exported_file(format, "int8"))
    assert len(weights) > 4
    assert all(2 * 255 * abs(values.astype(np.int32)).max() < 2**15 for values in weights)


def _int8_constants(path):
    if path.suffix == ".onnx":
        stored = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
    else:
        graph = openvino.Core().read_model(path)
        stored = (node.data for node in graph.get_ops() if node.get_type_name() == "Constant")
    return [values for values in stored if values.dtype == np.int8 and values.ndim > 1]


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
def test_the_graph_gives_an_image_the_same_alone_and_in_a_batch(exported, format):
    backend = exported(format, "fp32").backend
    names = output_names((8, 16))
    pixels = np.stack(good_images(5, seed=3)).astype(np.float32)
    together = backend.run(pixels, names)
    for number in range(5):
        alone = backend.run(pixels[number : number + 1], names)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
def test_the_graphs_own_map_and_score_are_the_detectors_at_its_size(trained, exported, format):
    """For callers that have no Python: an image of the canvas's size needs nothing else."""
    backend = exported(format, "fp32").backend
    for image in (*good_images(2, seed=5), golden_images()["hole"]):
        expected = trained.predict(image)
        pixels = image[None].astype(np.float32)
        anomaly_map, score = backend.run(pixels, ["anomaly_map", "score"])
        np.testing.assert_allclose(anomaly_map[0], expected.anomaly_map, rtol=1e-4, atol=1e-4)
        assert float(score[0]) == pytest.approx(expected.score, rel=1e-4)
