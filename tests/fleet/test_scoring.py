"""Scoring archives: every image once, from any kind of archive, whatever is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from cflow_ad.errors import DataError
from cflow_ad.fleet.archive import Archive
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.objects import open_objects
from cflow_ad.fleet.scoring import Scoring, score_archive
from tests.cli.commands import refused as refused_command
from tests.cli.commands import run

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model(toy_detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    toy_detector.save(path)
    return path


@pytest.fixture(scope="module")
def files():
    """Image files by name: 30 that can be read, two damaged ones."""
    rng = np.random.default_rng(0)
    made = {}
    for number in range(30):
        data = io.BytesIO()
        pixels = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(pixels).save(data, "PNG")
        made[f"day {number % 3}/{number:02}.png"] = data.getvalue()
    made["day 1/damaged.png"] = made["day 1/01.png"][:200]
    made["day 2/99.jpg"] = b""
    return made


@pytest.fixture
def folder(files, tmp_path):
    root = tmp_path / "archive"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "day 0" / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return root


def score(archive, model, out, **options):
    wanted = Scoring(str(archive), model, out, device="cpu", **{"per_shard": 8} | options)
    return list(score_archive(wanted, Engine()))


def table(out):
    rows = pq.read_table(out).to_pylist()
    assert len({row["image"] for row in rows}) == len(rows)
    return {row["image"]: row for row in rows}


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def test_every_image_of_a_folder_has_the_row_of_its_prediction(
    here, folder, files, model, toy_detector, tmp_path
):
    ends = score(folder, model, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert set(rows) == set(files)
    assert len(ends) > 2
    assert sum(end.counts["images"] for end in ends) == 32
    assert sum(end.counts["unreadable"] for end in ends) == 2
    for name, row in rows.items():
        if name in ("day 1/damaged.png", "day 2/99.jpg"):
            assert name in row["error"]
            assert (row["score"], row["is_anomalous"], row["regions"]) == (None, None, None)
            continue
        expected = toy_detector.predict(folder / name)
        assert (row["score"], row["is_anomalous"]) == (expected.score, expected.is_anomalous)
        assert row["regions"] == [region.to_dict() for region in expected.regions]
        assert row["error"] is None
    assert any(row["regions"] for row in rows.values())


def test_a_run_that_was_cut_short_goes_on_and_touches_nothing(here, folder, model, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    score(folder, model, whole)
    wanted = Scoring(str(folder), model, cut, per_shard=8, device="cpu")
    running = score_archive(wanted, Engine())
    first = next(running)
    running.close()
    (cut / ".1234.unfinished").write_bytes(b"of a worker that was killed")
    before = (cut / f"{first.shard}.parquet").stat()
    ends = score(folder, model, cut)
    assert [end.is_new for end in ends] == [False] + [True] * (len(ends) - 1)
    assert (cut / f"{first.shard}.parquet").stat().st_mtime_ns == before.st_mtime_ns
    assert contents(cut) == contents(whole)
    assert not list(cut.glob(".*"))


def test_decoding_apart_gives_the_same_bytes(here, folder, model, tmp_path):
    score(folder, model, tmp_path / "one")
    score(folder, model, tmp_path / "other", decoders=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            for key, content in ((name, data), (f"{name}.json", b"{}")):
                member = tarfile.TarInfo(key)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(path, files, nested):
    names, data = list(files), list(files.values())
    if nested:
        cells = [{"bytes": each, "path": name} for name, each in files.items()]
        pq.write_table(pa.table({"image": cells, "label": [0] * len(cells)}), path)
    else:
        pq.write_table(pa.table({"name": names, "picture": data}), path, row_group_size=7)


@pytest.fixture
def shards(files, tmp_path):
    """The same images in four kinds of shards, and by which shard they lie in."""
    root = tmp_path / "shards"
    (root / "b").mkdir(parents=True)
    names = list(files)
    parts = [{name: files[name] for name in names[start::4]} for start in range(4)]
    write_tar(root / "a.tar", parts[0])
    write_tar(root / "b" / "a.tar.gz", parts[1], "w:gz")
    write_parquet(root / "c.parquet", parts[2], nested=True)
    write_parquet(root / "d.parquet", parts[3], nested=True)
    return root


def test_shards_of_any_kind_have_the_scores_of_the_images(
    here, shards, folder, model, files, tmp_path
):
    score(folder, model, tmp_path / "of folder")
    expected = table(tmp_path / "of folder")
    score(shards, model, tmp_path / "of shards")
    found = table(tmp_path / "of shards")
    assert len(found) == 32
    for image, row in found.items():
        shard, name = next((s, n) for n in files for s in [image.partition("/")[0]] if n in image)
        assert image.startswith(shard)
        assert (row["score"], row["regions"]) == (
            expected[name]["score"],
            expected[name]["regions"],
        )
    assert sum(row["error"] is not None for row in found.values()) == 2


def test_an_object_store_has_the_scores_of_a_folder(
    here, shards, folder, model, bucket, refused, tmp_path
):
    for kind, root in (("images", folder), ("shards", shards)):
        objects = open_objects(f"{bucket}/{kind}")
        for path in root.rglob("*.*"):
            if path.is_file() and not path.name.startswith("."):
                objects.create(path.relative_to(root).as_posix(), path.read_bytes())
        score(f"{bucket}/{kind}", model, tmp_path / f"{kind} there")
        score(root, model, tmp_path / f"{kind} here")
        assert contents(tmp_path / f"{kind} there") == contents(tmp_path / f"{kind} here")
    assert {line.split()[0] for line in refused} == {"GET", "PUT"}


def test_one_file_is_an_archive_and_its_column_can_be_named(here, files, model, tmp_path):
    write_parquet(tmp_path / "all.parquet", files, nested=False)
    wrong = score(tmp_path / "all.parquet", model, tmp_path / "out")
    assert "no column of images; it has name, picture" in wrong[0].error
    score(tmp_path / "all.parquet", model, tmp_path / "out", image_column="picture")
    rows = table(tmp_path / "out")
    assert [image.split("/", 2)[-1] for image in rows] == list(files)


def test_a_damaged_shard_is_named_and_leaves_the_others_alone(here, shards, model, tmp_path):
    whole = (shards / "a.tar").read_bytes()
    (shards / "a.tar").write_bytes(whole[: len(whole) // 2])
    (shards / "c.parquet").write_bytes(b"PAR1 and no more")
    command = ("score", shards, "-m", model, "-o", tmp_path / "out")
    result = run(*command)
    assert result.exit_code == 1
    assert "a.tar is damaged" in result.stderr
    assert "c.parquet is damaged" in result.stderr
    assert len(contents(tmp_path / "out")) == 2
    (shards / "a.tar").write_bytes(whole)
    (shards / "c.parquet").unlink()
    result = run(*command)
    assert result.exit_code == 0
    assert "24 images in 3 shards" in result.stdout


def test_an_archive_that_has_grown_is_scored_anew_where_it_changed(
    here, folder, files, model, tmp_path
):
    out = tmp_path / "out"
    score(folder, model, out, per_shard=4)
    before = contents(out)
    (folder / "day 1" / "50.png").write_bytes(files["day 1/01.png"])
    ends = score(folder, model, out, per_shard=4)
    assert 1 <= sum(end.is_new for end in ends) < len(ends)
    assert set(table(out)) == {*files, "day 1/50.png"}
    replaced = {path.name for path in (out / "_replaced").iterdir()}
    assert replaced == set(before) - set(contents(out))


def test_shards_are_the_same_whatever_the_order_on_disk(folder, files):
    listed = list(Archive(str(folder)).shards(8))
    assert [key for shard in listed for key in shard.keys] == sorted(files)
    assert all(4 <= len(shard.keys) <= 16 for shard in listed[:-1])
    for name in sorted(files, reverse=True):
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(data)
    assert list(Archive(str(folder)).shards(8)) == listed


def test_names_of_any_bytes_have_a_row(here, model, files, tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    name = b"bad-\xff\n.png"
    (root / os.fsdecode(name)).write_bytes(files["day 0/00.png"])
    score(root, model, tmp_path / "out")
    assert list(table(tmp_path / "out")) == ["bad-\\udcff\n.png"]


def test_mistakes_are_one_line(here, folder, shards, model, tmp_path):
    def refusal(archive, out="out", *options):
        return refused_command("score", archive, "-m", model, "-o", tmp_path / out, *options)

    assert "no such folder or file" in refusal(tmp_path / "none")
    assert "neither a tar nor a Parquet" in refusal(folder / "notes.txt")
    assert "lies in the archive" in refusal(folder, folder / "out")
    assert "is a file" in refusal(shards, folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    assert "no images, tar or Parquet" in refusal(tmp_path / "empty", "of empty")
    assert "none.safetensors" in refused_command(
        "score", folder, "-m", tmp_path / "none.safetensors", "-o", tmp_path / "out"
    )
    assert run("score", shards, "-m", model, "-o", tmp_path / "out").exit_code == 0
    assert "results of another archive" in refusal(folder)
    assert "another size of shards" in refusal(shards, "out", "--per-shard", 3)


def test_a_model_that_changed_is_refused(here, shards, model, toy_detector, tmp_path):
    score(shards, model, tmp_path / "out")
    other = tmp_path / "other.safetensors"
    toy_detector.save(other, bundle=True)
    with pytest.raises(DataError, match="results of another model"):
        score(shards, other, tmp_path / "out")


def test_whatever_is_killed_every_image_is_scored_once(here, folder, model, tmp_path, monkeypatch):
    expected = tmp_path / "expected"
    score(folder, model, expected, per_shard=2)
    monkeypatch.undo()  # workers are processes again
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cflow_ad", "score", folder, "-m", model, "-o", out]
    driver = subprocess.Popen([*map(str, command), "--per-shard", "2", "--workers", "1"])
    end = time.monotonic() + 120
    while not list(out.glob("*.parquet")):
        assert time.monotonic() < end
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()

    killed = []

    def kill_soon(pool):
        def kill():
            while not (pool.processes and len(list(out.glob("*.parquet"))) > already):
                time.sleep(0.01)
            killed.append(pool.processes[0])
            os.kill(killed[0], signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    already = len(list(out.glob("*.parquet")))
    assert 1 <= already < len(list(expected.glob("*.parquet")))
    wanted = Scoring(str(folder), model, out, per_shard=2, device="cpu")
    list(score_archive(wanted, Engine(workers=1), opened=kill_soon))
    assert contents(out) == contents(expected)
    assert killed
