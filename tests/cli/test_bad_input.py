"""Whatever is wrong is said in one line that names it, and odd but sound images go through."""

from __future__ import annotations

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.images import image_shape
from cflow_ad.data.listing import list_images
from cflow_ad.store.model_file import read_model, write_model
from tests.cli.commands import TINY, refused, run


@pytest.fixture
def image(carpet):
    return Image.open(carpet / "train" / "good" / "000.png")


def write_bad_image(kind, image, path):
    image.save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "nan":
        Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    elif kind == "huge":
        header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", len(header))
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
        )


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("truncated", ".png"),
        ("truncated", ".jpg"),
        ("empty", ".png"),
        ("text", ".png"),
        ("nan", ".tif"),
        ("huge", ".png"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(model, image, tmp_path, kind, suffix):
    data = tmp_path / "data"
    data.mkdir()
    image.save(data / "fine.png")
    bad = data / f"bad{suffix}"
    write_bad_image(kind, image, bad)
    assert str(bad) in refused("train", data, "-o", tmp_path / "m.safetensors", *TINY)
    result = run("predict", model, data, "--exit-zero")
    assert result.exit_code == 3
    assert str(bad) in result.stderr
    assert str(data / "fine.png") in result.stdout


def test_odd_but_sound_images_train_and_predict(image, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rgb = image.convert("RGB")
    grey = np.asarray(image.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(data / "sixteen.png")
    rgb.convert("CMYK").save(data / "cmyk.jpg")
    rgb.convert("RGBA").save(data / "rgba.png")
    rgb.convert("P").save(data / "palette.png")
    rgb.convert("1").save(data / "bits.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.crop((0, 0, 64, 30)).save(data / "turned.jpg", exif=exif)
    rgb.resize((1, 1)).save(data / "one.png")
    Image.fromarray(np.tile(grey[:1, :50], (20_000, 2))).save(data / "long.tif")
    rgb.save(data / "plain.webp")
    model = tmp_path / "m.safetensors"
    result = run("train", data, "-o", model, "--bits", "16", *TINY)
    assert result.exit_code == 0, result.output
    result = run("predict", model, data, "-o", tmp_path / "out", "--masks", "--exit-zero")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 9
    masks = {path.stem: image_shape(path) for path in list_images(tmp_path / "out" / "masks")}
    assert masks["turned"] == (64, 30)
    assert masks["one"] == (1, 1)
    assert masks["long"] == (20_000, 100)


def test_folders_that_hold_no_images_are_named(model, tmp_path):
    empty, texts, missing = tmp_path / "empty", tmp_path / "texts", tmp_path / "missing"
    empty.mkdir()
    texts.mkdir()
    for number in range(3):
        (texts / f"{number}.txt").write_text("")
    for folder in (empty, texts, missing):
        assert str(folder) in refused("train", folder, "-o", tmp_path / "m", *TINY)
        assert str(folder) in refused("evaluate", model, folder)
    for folder in (empty, texts):
        assert str(folder) in refused("predict", model, folder)
    assert "3 .txt files" in refused("train", texts, "-o", tmp_path / "m", *TINY)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut short", "foreign", "other"])
def test_a_model_file_that_cannot_be_used_is_named(model, carpet, tmp_path, kind):
    path = tmp_path / "bad.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("hello")
    elif kind == "cut short":
        path.write_bytes(model.read_bytes()[:5000])
    elif kind == "foreign":
        safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    elif kind == "other":
        metadata = {"cflow_ad": '{"schema": 999}'}
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    image = carpet / "test" / "good" / "000.png"
    for command in (["predict", path, image], ["evaluate", path, carpet], ["info", path]):
        said = refused(*command)
        assert str(path) in said
        assert ("another version" in said) == (kind == "other")


def test_weights_that_are_not_the_models_are_named(model, carpet, tmp_path):
    weights = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, weights)
    image = carpet / "test" / "good" / "000.png"
    assert weights.name in refused("predict", model, image, "--weights", weights)
    missing = tmp_path / "missing.pth"
    assert str(missing) in refused("predict", model, image, "--weights", missing)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(model, carpet):
    image = carpet / "test" / "good" / "000.png"
    assert "cuda" in refused("predict", model, image, "--device", "cuda")


def test_a_mask_for_a_good_image_is_named(model, carpet, tmp_path):
    copy = shutil.copytree(carpet, tmp_path / "copy")
    mask = copy / "ground_truth" / "hole" / "000_mask.png"
    (copy / "ground_truth" / "good").mkdir()
    mask.rename(copy / "ground_truth" / "good" / "000_mask.png")
    assert str(copy / "ground_truth" / "good") in refused("evaluate", model, copy)


@pytest.mark.parametrize("damage", ["settings", "calibration", "encoder", "tensors"])
def test_a_model_whose_parts_do_not_fit_together_is_named(model, carpet, tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    metadata, tensors = read_model(model)
    if damage == "tensors":
        tensors.popitem()
    else:
        metadata[damage] = {"size": "wide"}
    write_model(path, tensors, metadata)
    said = refused("predict", path, carpet / "test" / "good" / "000.png")
    assert f"{path}: damaged" in said
    assert "copy it again" in said


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may read anything")
def test_what_may_not_be_read_is_named(model, image, tmp_path):
    closed, folder = tmp_path / "closed.png", tmp_path / "folder"
    image.save(closed)
    closed.chmod(0)
    folder.mkdir(mode=0)
    assert f"{closed}: no permission" in run("predict", model, closed).stderr
    assert f"{closed}: no permission" in refused("predict", closed, closed)
    assert f"{folder}: " in refused("train", folder, "-o", tmp_path / "m.safetensors", *TINY)


def test_an_empty_name_is_not_the_current_folder(model, tmp_path, monkeypatch, image):
    image.save(tmp_path / "here.png")
    monkeypatch.chdir(tmp_path)
    assert "an empty name" in refused("predict", model, "")


def test_too_little_memory_is_said_in_one_line(carpet, tmp_path):
    most = ["--set", f"batch_size={10**13}"]
    said = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY, *most)
    assert "not enough memory; give a smaller --size or batch size" in said


def test_a_disk_error_names_the_file(model, carpet, tmp_path):
    (tmp_path / "file").write_text("")
    table = tmp_path / "file" / "scores.csv"  # below a file nothing can be made
    said = refused("predict", model, carpet / "test" / "good", "--table", table)
    assert str(table.parent) in said


def test_no_fault_of_the_command_itself_is_hidden(carpet, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Detector, "fit", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        run("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
