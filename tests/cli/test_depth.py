"""The depth of the pixels on the command line: found, said, given, exceeded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import TINY, refused, run

LITTLE = [*TINY, "--steps", "0"]


def write(path, bits, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.2, 0.6, (64, 64)) * (2**bits - 1)
    values[0, 0] = 2**bits - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8 if bits == 8 else np.uint16)).save(path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Five good images of 12 bits in 16."""
    folder = tmp_path_factory.mktemp("deep")
    for number in range(5):
        write(folder / f"{number}.png", 12, number)
    return folder


@pytest.fixture(scope="module")
def model(deep, tmp_path_factory):
    path = tmp_path_factory.mktemp("deep-model") / "m.safetensors"
    result = run("train", deep, "-o", path, *LITTLE)
    assert result.exit_code == 0, result.output
    assert "depth of the pixels: 12 bits in 16, from the largest value" in result.stdout
    return path


def test_info_and_data_check_say_it(deep, model):
    assert json.loads(run("info", model, "--json").stdout)["settings"]["bits"] == 12
    assert "settings.bits" in run("info", model).stdout
    assert "depth  12 bits in 16, from the largest value" in run("data", "check", deep).stdout
    assert "depth  14 bits, as given" in run("data", "check", deep, "--bits", "14").stdout


def test_what_exceeds_it_is_skipped_by_name_and_read_where_it_is_given(deep, model, tmp_path):
    shutil.copy(deep / "0.png", tmp_path / "0.png")
    write(tmp_path / "over.png", 16)
    result = run("predict", model, tmp_path, "--exit-zero")
    assert result.exit_code == 3
    assert "over.png: its largest value is 65535, above white, which is 4095" in result.stderr
    given = run("predict", model, tmp_path / "over.png", "--bits", "16", "--exit-zero")
    assert given.exit_code == 0, given.output
    overlays = ["--overlays", "-o", tmp_path / "out"]
    assert run("predict", model, tmp_path / "0.png", "--exit-zero", *overlays).exit_code == 0
    with Image.open(tmp_path / "out" / "overlays" / "0.png") as drawn:
        assert np.asarray(drawn).mean() > 60  # not nearly black


def test_what_seems_to_hold_fewer_bits_is_named_once(model, tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", 10, number)
    result = run("predict", model, tmp_path, "--exit-zero")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning: ") == 1
    assert "read with 12 bits and seems to hold 10" in result.stderr
    given = run("predict", model, tmp_path, "--bits", "10", "--exit-zero")
    assert "warning" not in given.stderr


def test_a_data_set_of_another_depth_is_evaluated_where_it_is_given(model, tmp_path):
    for folder in ("good", "dent"):
        write(tmp_path / "set" / "test" / folder / "0.png", 16)
    arguments = ("evaluate", model, tmp_path / "set", "-o", tmp_path / "out")
    assert "give the depth of these images with --bits 16" in refused(*arguments)
    assert run(*arguments, "--bits", "16").exit_code == 0


def test_calibrate_sets_the_depth_and_update_refuses_another(deep, model, tmp_path):
    for number in range(3):
        write(tmp_path / "new" / f"{number}.png", 16, number + 9)
    calibrate = ("calibrate", model, tmp_path / "new", "-o", tmp_path / "16.safetensors")
    assert "--bits 16" in refused(*calibrate)
    assert run(*calibrate, "--bits", "16").exit_code == 0
    info = json.loads(run("info", tmp_path / "16.safetensors", "--json").stdout)
    assert info["settings"]["bits"] == 16
    assert run("predict", tmp_path / "16.safetensors", tmp_path / "new").exit_code in (0, 1)
    assert "give good images" in refused("calibrate", model, "--bits", "16")
    update = ("update", model, tmp_path / "new", "-o", tmp_path / "u.safetensors")
    assert "convert the new images" in refused(*update, "--bits", "16")


def test_a_mix_is_refused(deep, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(deep, folder)
    write(folder / "odd.png", 8)
    problem = refused("train", folder, "-o", tmp_path / "m.safetensors", *LITTLE)
    assert "odd.png: states 8 bits, but other images hold 12 bits" in problem
    assert run("data", "check", folder).exit_code == 1
    result = run("train", folder, "-o", tmp_path / "m.safetensors", "--bits", "12", *LITTLE)
    assert result.exit_code == 0, result.output
    assert "depth of the pixels: 12 bits, as given" in result.stdout
