"""Full disks, and processes that are killed: one clear line, the old model whole, nothing left."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

import pytest

from cflow_ad import Detector, files
from cflow_ad.errors import ModelFileError
from cflow_ad.export.files import suffix_of
from cflow_ad.store import parts
from tests.cli.commands import TINY, refused, run, start

unix = pytest.mark.skipif(os.name == "nt", reason="no such signals or limits there")


@contextlib.contextmanager
def file_limit(n_bytes):
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@unix
def test_no_space_for_the_features_is_said_with_sizes_and_leaves_nothing(carpet, tmp_path):
    with file_limit(20_000):
        said = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
    assert f"{tmp_path / 'm.safetensors.work'}: the features need " in said
    assert "MiB while training, but the disk has" in said
    assert "--work-folder" in said
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_later_is_named_and_nothing_is_left(carpet, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "level"))

    monkeypatch.setattr("cflow_ad.fitting.feature_store.FeatureStore.note", fail)
    said = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
    assert "No space left on device" in said
    assert list(tmp_path.iterdir()) == []


@unix
def test_no_space_for_a_checkpoint_is_said_and_leaves_nothing(carpet, tmp_path):
    """The features fit, as they are smaller here."""
    with file_limit(300_000):
        said = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
    assert f"error: {tmp_path / 'm.safetensors.work'}" in said
    assert "File too large" in said
    assert list(tmp_path.iterdir()) == []


@unix
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["-o", "OUT", "--maps", "npy"], "maps/000.npy"),
        (["-o", "OUT", "--maps", "png"], "maps/000.png"),
        (["-o", "OUT", "--masks"], "masks/000.png"),
        (["-o", "OUT", "--overlays"], "overlays/000.png"),
        (["--picture", "OUT/picture.png"], "picture.png"),
        (["--picture", "OUT/picture.svg"], "picture.svg"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_no_space_for_a_result_names_the_file_and_keeps_the_earlier_one(
    model, carpet, tmp_path, options, name, there
):
    file = tmp_path / name
    predict = ["predict", model, carpet / "test" / "good", "--exit-zero"]
    predict += [option.replace("OUT", str(tmp_path)) for option in options]
    if there:
        assert run(*predict).exit_code == 0
        before = file.read_bytes()
    with file_limit(60):
        result = run(*predict)
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if "error" in line] == [result.stderr[:-1]]
    assert f"{file}: " in result.stderr
    assert "File too large" in result.stderr
    assert "free space of the disk" in result.stderr
    assert file.exists() == there
    assert not there or file.read_bytes() == before
    assert not list(file.parent.glob(".*"))


@unix
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("n_bytes", [20, 200, 300, 400])
def test_a_table_on_a_full_disk_ends_with_a_whole_row(model, carpet, tmp_path, suffix, n_bytes):
    table = tmp_path / f"t{suffix}"
    predict = ("predict", model, carpet / "test", "--exit-zero", "--table", table)
    assert run(*predict).exit_code == 0
    whole = table.read_bytes()
    with file_limit(n_bytes):
        said = run(*predict).stderr
    assert said.startswith(f"error: {table}: File too large")
    written = table.read_bytes()
    assert whole.startswith(written)
    assert written == b"" or written.endswith(b"\n")
    assert len(written) <= n_bytes


@unix
@pytest.mark.parametrize(("n_bytes", "name"), [(60, "metrics.json"), (20_000, "picture.png")])
def test_no_space_for_an_evaluation_leaves_whole_files(model, carpet, tmp_path, n_bytes, name):
    evaluate = ("evaluate", model, carpet, "-o", tmp_path)
    with file_limit(n_bytes):
        said = refused(*evaluate)
    assert f"{tmp_path / name}: " in said
    assert "File too large" in said
    assert not (tmp_path / name).exists()
    assert not list(tmp_path.glob(".*"))


@unix
@pytest.mark.parametrize("format", ["openvino", "torch"])
def test_no_space_for_an_export_names_the_file_and_keeps_the_earlier_one(model, tmp_path, format):
    """In a process of its own, which a library may end."""
    file = tmp_path / f"m{suffix_of(format)}"
    file.write_bytes(b"earlier")
    export = ("export", model, "-f", format, "-o", file)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    process = start(*export, before=before)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith(f"error: {file}: the model cannot be written there (")
    assert "free space of the disk" in said
    assert "Traceback" not in said
    assert file.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [file]


@unix
@pytest.mark.parametrize("format", ["manifest", "coco", "mvtec"])
def test_no_space_for_a_data_set_names_its_folder(carpet, tmp_path, format):
    with file_limit(60):
        said = refused("data", "export", carpet, tmp_path / "out", "--format", format)
    assert said.startswith(f"error: {tmp_path / 'out'}")
    assert "File too large" in said


@unix
def test_no_space_for_a_generated_set_names_the_file(tmp_path):
    with file_limit(2000):
        said = refused("data", "sample", "carpet", tmp_path / "out", "--size", 64)
    assert said.startswith(f"error: {tmp_path / 'out' / 'train' / 'good' / '000.png'}: ")


def test_no_space_for_the_model_keeps_the_old_one_and_the_training(carpet, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    assert run("train", carpet, "-o", path, *TINY).exit_code == 0
    old = path.read_bytes()
    fsync, write = os.fsync, parts.write_model

    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_to_a_full_disk(*of):
        monkeypatch.setattr(os, "fsync", fail)
        write(*of)

    monkeypatch.setattr(parts, "write_model", write_to_a_full_disk)
    result = run("train", carpet, "-o", path, *TINY, "--seed", 1)
    assert result.exit_code == 2
    assert "--resume writes the model" in result.stderr
    assert f"{path}: the model cannot be written there" in result.stderr
    assert path.read_bytes() == old
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.work"}
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(parts, "write_model", write)
    assert run("train", carpet, "-o", path, *TINY, "--seed", 1, "--resume").exit_code == 0
    assert path.read_bytes() != old
    assert list(tmp_path.iterdir()) == [path]


# A save that writes half of the file and then takes its time.
SLOW_SAVE = """
import sys, time
import os
import cflow_ad.store.parts as parts
write = parts.write_model
def stop(handle):
    print("saving", flush=True)
    time.sleep(60)
def write_slowly(*of):
    os.fsync = stop
    write(*of)
parts.write_model = write_slowly
"""


@unix
def test_a_process_killed_while_it_saves_leaves_the_old_model_whole(model, carpet, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(model.read_bytes())
    process = start("train", carpet, "-o", path, *TINY, "--seed", 2, before=SLOW_SAVE)
    assert process.stdout.readline() == b"saving\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert path.read_bytes() == model.read_bytes()
    assert Detector.load(path).is_calibrated
    others = [f for f in tmp_path.iterdir() if f.is_file() and f != path]
    assert [f.suffix for f in others] == [".new"]  # no name that a model has
    half = tmp_path / "half.safetensors"
    half.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="damaged"):
        Detector.load(half)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_features_can_be_kept_elsewhere(carpet, tmp_path, monkeypatch, how):
    elsewhere, models = tmp_path / "elsewhere", tmp_path / "models"
    models.mkdir()
    (elsewhere / "mine").mkdir(parents=True)
    options = ["--work-folder", elsewhere] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("CFLOW_AD_WORK", str(elsewhere))
    fit = Detector.fit
    used = []

    def spy(*arguments, work, **options):
        used.append(work)
        made = fit(*arguments, work=work, **options)
        assert any(work.iterdir())
        return made

    monkeypatch.setattr(Detector, "fit", spy)
    result = run("train", carpet, "-o", models / "m.safetensors", *TINY, *options)
    assert result.exit_code == 0, result.output
    assert used[0].parent == elsewhere
    assert [f.name for f in models.iterdir()] == ["m.safetensors"]
    assert [f.name for f in elsewhere.iterdir()] == ["mine"]


@unix
def test_the_space_of_a_file_is_reserved(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    files.reserve(path, 1_000_000)
    assert path.stat().st_blocks * 512 >= 1_000_000
    assert path.read_bytes()[:4] == b"abc\0"
    with file_limit(10_000), pytest.raises(OSError, match="too large") as caught:
        files.reserve(path, 2_000_000)
    assert files.is_full(caught.value)


def test_space_is_reserved_without_the_system_call(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    files.reserve(path, 10_000)
    assert path.stat().st_size == 10_000
    assert path.read_bytes()[:4] == b"abc\0"
