"""`import`: checkpoints of others become model files."""

from __future__ import annotations

import pytest
import torch

from cflow_ad import Detector
from tests.cflow.freia import decoder
from tests.cli.commands import refused, run
from tests.importers import peers


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """A checkpoint as the authors' code saves it, of one level."""
    path = tmp_path_factory.mktemp("authors") / "mvtec_resnet18_freia-cflow_pl1_cb1_inp64_run0.pt"
    content = {
        "encoder_state_dict": peers.AuthorsResNet().state(),
        "decoder_state_dict": [decoder(512, blocks=1).state_dict()],
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def anomalib(tmp_path_factory):
    """A checkpoint as anomalib saves it, of one level."""
    path = tmp_path_factory.mktemp("anomalib") / "model.ckpt"
    encoder = peers.AnomalibEncoder(["layer3"])
    coders = [decoder(256, blocks=1, soft=False)]
    torch.save(peers.anomalib_checkpoint(encoder, coders, layers=["layer3"]), path)
    return path


def test_a_model_of_the_authors_is_imported_calibrated_and_used(authors, carpet, tmp_path):
    model = tmp_path / "new" / "model.safetensors"
    result = run("import", "authors", authors, "-o", model)
    assert result.exit_code == 0, result.output
    assert f"{model}: resnet18.tv_in1k at 64; strides 32; blocks 1" in result.stdout
    assert f"run `cflow-ad calibrate {model} GOOD`" in result.stdout
    assert result.stderr == ""
    assert "the authors' code" in run("info", model).stdout
    assert "cflow-ad calibrate" in refused("predict", model, carpet / "test" / "good")
    said = refused("update", model, carpet / "train" / "good")
    assert f"{model} does not say which images it was trained on" in said
    assert run("calibrate", model, carpet / "train" / "good").exit_code == 0
    assert run("predict", model, carpet / "test" / "good", "--exit-zero").exit_code == 0


def test_import_and_calibration_can_be_one_command(anomalib, carpet, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    options = ("--false-alarm-rate", 0.4, "--smoothing", 2)
    result = run("import", "anomalib", anomalib, "-o", one, "--good", carpet, *options)
    assert result.exit_code == 0, result.output
    assert "threshold" in result.stdout
    run("import", "anomalib", anomalib, "-o", two)
    run("calibrate", two, carpet, *options)
    first, second = (Detector.load(path, device="cpu") for path in (one, two))
    assert first.calibration == second.calibration
    assert first.settings == second.settings
    assert first.settings.smoothing == 2


def test_what_is_assumed_is_said(authors, anomalib, tmp_path):
    bare = tmp_path / "bare.ckpt"
    torch.save(torch.load(anomalib)["state_dict"], bare)
    said = run("import", "anomalib", bare, "-o", tmp_path / "m.safetensors").stderr
    assert said.startswith("warning: ")
    assert "256x256" in said
    assert len(said.splitlines()) == 1


def test_weights_can_be_left_out_which_is_said(authors, tmp_path):
    whole, light = tmp_path / "whole.safetensors", tmp_path / "light.safetensors"
    assert "--weights" not in run("import", "authors", authors, "-o", whole).stdout
    said = run("import", "authors", authors, "-o", light, "--no-bundle").stdout.splitlines()[0]
    assert said.startswith(f"{light}: ")
    assert "without the encoder's weights: to open it, give them with --weights FILE" in said
    assert light.stat().st_size < whole.stat().st_size / 2
    weights = tmp_path / "encoder.pth"
    torch.save(torch.load(authors)["encoder_state_dict"], weights)
    assert Detector.load(light, weights=weights, device="cpu").settings.strides == (32,)


@pytest.mark.parametrize("kind", ["authors", "anomalib"])
def test_what_cannot_be_imported_is_named_and_nothing_is_written(kind, carpet, tmp_path):
    model = tmp_path / "m.safetensors"
    trap = peers.Trap(tmp_path / "sprung")
    for name, write in {
        "missing.pt": lambda path: None,
        "text.pt": lambda path: path.write_text("hello"),
        "trap.pt": lambda path: torch.save({"model": trap}, path),
        "foreign.pt": lambda path: torch.save({"x": torch.ones(1)}, path),
    }.items():
        write(tmp_path / name)
        assert str(tmp_path / name) in refused("import", kind, tmp_path / name, "-o", model)
    assert not model.exists()
    assert not trap.path.exists()


def test_options_that_do_not_go_together_are_named(anomalib, authors, tmp_path):
    model = tmp_path / "m.safetensors"
    assert "--good" in refused("import", "anomalib", anomalib, "-o", model, "--smoothing", 1)
    said = refused("import", "authors", authors, "-o", model, "--backbone", "wide_resnet50_2")
    assert "a resnet18, not a wide_resnet50_2" in said
    assert str(tmp_path) in refused("import", "authors", authors, "-o", tmp_path)
