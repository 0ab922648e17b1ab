"""The detector of an exported file: as the trained one, in threads and processes; its errors."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from PIL import Image

from cflow_ad import ImageError, ModelFileError, SettingsError
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.runtime.opening import describe
from tests.golden.exported import exported_file, golden_detector
from tests.golden.images import golden_images, good_images


@pytest.fixture(scope="module")
def files():
    """An ONNX and an OpenVINO file for canvases of 64 x 64 alone."""
    return {format: exported_file(format, size="64x64") for format in ("onnx", "openvino")}


@pytest.fixture(params=["onnx", "openvino"])
def file(request, files):
    return files[request.param]


def score_in_a_process(path, image):
    return RuntimeDetector.load(path, threads=1).predict(image).score


def test_threads_may_share_a_detector(file):
    detector = RuntimeDetector.load(file)
    images = good_images(12, seed=2)
    alone = [detector.predict(image).score for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda image: detector.predict(image).score, images))
            assert together == alone


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_row_of_batches_of_one_shape_has_a_graph_of_its_own_and_the_same_scores(precision):
    detector = RuntimeDetector.load(exported_file(precision=precision))
    image = golden_images()["hole"]
    alone = detector.predict(image).score
    opened, open_session = [], detector.backend._backend._open_session

    def note(**sides):
        opened.append(sides)
        return open_session(**sides)

    detector.backend._backend._open_session = note
    assert [detector.predict(image).score for _ in range(8)] == [alone] * 8
    assert opened == [{"batch": 1, "height": 64, "width": 64}]
    detector.predict(image[:32])
    assert [detector.predict(image).score for _ in range(5)] == [alone] * 5
    assert len(opened) == 1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvinos_program_depends_on_the_size_alone(precision):
    """In int8 a graph for one size and that for any give an image different scores."""
    path = exported_file("openvino", precision)
    usual = golden_images()["hole"]
    images = [usual, usual[:32], usual[:, :32]]
    forth, back = RuntimeDetector.load(path), RuntimeDetector.load(path)
    scores = [forth.predict(image).score for image in images]
    assert scores == [back.predict(image).score for image in images[::-1]][::-1]
    assert scores == [forth.predict(image).score for image in images]
    assert [sides for sides, _ in forth.backend._backend._programs] == [(64, 64), None]


def test_processes_score_the_same(files):
    image = golden_images()["hole"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        scores = pool.starmap(score_in_a_process, [(files["onnx"], image)] * 2)
    assert set(scores) == {score_in_a_process(files["onnx"], image)}


def test_its_metadata_are_those_of_the_trained_model(file):
    info = RuntimeDetector.load(file).info()
    for section, values in golden_detector().info().items():
        assert info[section] == json.loads(json.dumps(values))
    assert info["export"]["precision"] == "fp32"
    assert info["export"]["size"] == [64, 64]


def test_no_program_is_compiled_to_read_openvinos_metadata(files, monkeypatch):
    about = RuntimeDetector.load(files["openvino"]).info()
    monkeypatch.delattr("openvino.Core.compile_model")
    assert describe(files["openvino"]) == about


def test_a_file_a_picture_and_pixels_are_one(file, tmp_path):
    detector = RuntimeDetector.load(file)
    image = golden_images()["hole"]
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    of_file = detector.predict(path)
    assert of_file.source == str(path)
    assert detector.predict(image).score == detector.predict(Image.open(path)).score
    assert detector.predict(image).score == of_file.score


@pytest.mark.parametrize("maps", [True, False])
def test_maps_may_be_left_until_they_are_used(file, maps):
    trained, detector = golden_detector(), RuntimeDetector.load(file)
    sources = [*good_images(2, seed=4), golden_images()["hole"]]
    pairs = zip(
        trained.stream(sources, maps=maps), detector.stream(sources, maps=maps), strict=True
    )
    for ours, theirs in pairs:
        assert theirs.score == pytest.approx(ours.score, rel=1e-4)
        assert (theirs.mask == ours.mask).all()
        assert theirs.mask.any() == theirs.is_anomalous


def test_an_image_of_another_canvas_is_named_with_the_way_out(file, tmp_path):
    detector = RuntimeDetector.load(file)
    path = tmp_path / "long.png"
    Image.fromarray(good_images(1)[0][:30]).save(path)
    with pytest.raises(ImageError, match=r"long\.png: its canvas has 32 x 64 .* --size dynamic"):
        detector.predict(path)
    skipped = []
    images = [good_images(1)[0], path, good_images(1)[0]]
    done = list(detector.stream(images, on_error=lambda *what: skipped.append(what)))
    assert (len(done), [source for source, _ in skipped]) == (2, [path])


# Files that cannot be used


def copies(file, folder):
    """The file, and what lies beside it, somewhere else."""
    for part in file.parent.glob(f"{file.stem}.*"):
        if part.suffix in ((".xml", ".bin") if file.suffix == ".xml" else (file.suffix,)):
            (folder / part.name).write_bytes(part.read_bytes())
    return folder / file.name


def test_a_missing_file_a_folder_and_another_kind_have_errors_of_their_own(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "model.tflite").write_bytes(b"x")
    for name, said in (
        ("none.onnx", "no such model file"),
        ("folder.onnx", "folder"),
        ("model.tflite", r"\.onnx, \.xml or \.pt2"),
    ):
        with pytest.raises(ModelFileError, match=said):
            RuntimeDetector.load(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_damaged_file_is_one_clear_line(file, tmp_path, keep):
    copy = copies(file, tmp_path)
    copy.write_bytes(copy.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="damaged") as raised:
        RuntimeDetector.load(copy)
    assert str(copy) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelFileError, match="damaged"):
        describe(copy)


def test_noise_by_the_name_of_a_model_is_one_clear_line(tmp_path):
    for suffix in (".onnx", ".xml", ".pt2"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(ModelFileError, match="damaged") as raised:
            RuntimeDetector.load(path)
        assert "\n" not in str(raised.value)


def test_openvinos_weights_must_be_there(files, tmp_path):
    copy = copies(files["openvino"], tmp_path)
    copy.with_suffix(".bin").unlink()
    with pytest.raises(ModelFileError, match=r"model\.xml"):
        RuntimeDetector.load(copy)
    with pytest.raises(ModelFileError, match=r"model\.xml"):
        describe(copy)


def change(file, path, edit):
    model = onnx.load(file)
    edit(model)
    onnx.save(model, path)
    return path


def metadata(edit):
    def of_model(model):
        about = json.loads(model.metadata_props[0].value)
        edit(about)
        model.metadata_props[0].value = json.dumps(about)

    return of_model


def test_metadata_that_is_missing_damaged_or_of_another_version_is_reported(files, tmp_path):
    def lose(model):
        del model.metadata_props[:]

    def garble(model):
        model.metadata_props[0].value = "{"

    for edit, said in (
        (lose, "not an exported cflow-ad model"),
        (garble, "metadata cannot be read"),
        (metadata(lambda about: about.update(schema=1)), "another version"),
        (metadata(lambda about: about.update(schema=99)), "another version"),
        (metadata(lambda about: about.pop("calibration")), "does not fit together"),
        (metadata(lambda about: about["settings"].update(seed=-1)), "does not fit together"),
        (metadata(lambda about: about["export"].pop("size")), "does not fit together"),
    ):
        path = change(files["onnx"], tmp_path / "changed.onnx", edit)
        with pytest.raises(ModelFileError, match=said):
            RuntimeDetector.load(path)


def test_another_graph_with_the_metadata_is_refused(files, tmp_path):
    about = onnx.load(files["onnx"]).metadata_props[0].value
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n"])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["n"])
    node = onnx.helper.make_node("Relu", ["image"], ["out"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "foreign", [value], [out]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.helper.set_model_props(model, {"cflow_ad": about})
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match=r"foreign\.onnx.*outputs"):
        RuntimeDetector.load(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("device", ["cuda:0", "npu"])
def test_a_device_that_is_not_there_is_reported_with_those_that_are(file, device):
    with pytest.raises(SettingsError, match="CPU"):
        RuntimeDetector.load(file, device=device)


def test_the_number_of_threads_is_at_least_1(file):
    assert RuntimeDetector.load(file, threads=1).predict(good_images(1)[0]).score > 0
    with pytest.raises(SettingsError, match="threads"):
        RuntimeDetector.load(file, threads=0)
