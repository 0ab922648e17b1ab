"""Training many products: whatever is killed, each has one model, the same as if trained alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from cflow_ad import Detector
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.manifest import read_manifest
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.runs import fleet_status, train_products
from cflow_ad.fleet.training import Trainer, job_name
from tests.cli.commands import refused as refused_command
from tests.cli.commands import run
from tests.fleet.conftest import OPTIONS, TINY, models


@pytest.fixture(scope="module")
def trained(plant, tmp_path_factory):
    """A store that a command has filled, and what it printed."""
    store = tmp_path_factory.mktemp("trained")
    result = run("fleet", "train", plant, "--store", store, *OPTIONS, "--workers", 2, "--json")
    assert result.exit_code == 0
    return store, json.loads(result.stdout)


def test_a_model_of_a_fleet_is_bit_for_bit_that_of_one_trained_alone(trained, alone):
    store, rows = trained
    assert models(store) == models(alone)
    assert [row["product"] for row in rows] == list(models(alone))
    assert {row["state"] for row in rows} == {"trained"}
    assert all(row["version"] == row["promoted"] for row in rows)
    assert {row.state for row in fleet_status(ModelStore(store))} == {"trained"}


def test_what_is_trained_is_kept(trained, plant):
    store, _ = trained
    train = Trainer(str(store), threads=1, device="cpu")
    assert not any(train(product).is_new for product in read_manifest(plant, changes=TINY))
    # Sums that are split among two cores end in other bits.
    first = read_manifest(plant, changes=TINY)[0]
    assert job_name(first, 1) != job_name(first, 2)


def test_an_object_store_that_refuses_requests_has_the_same_models(
    here, plant, bucket, alone, refused
):
    products = read_manifest(plant, changes=TINY)
    rows = train_products(products, bucket, Engine(workers=1), device="cpu")
    assert {row.state for row in rows} == {"trained"}
    assert models(bucket) == models(alone)
    assert refused


def test_a_worker_that_is_killed_is_replaced(plant, tmp_path, alone):
    killed = []

    def kill_soon(pool):
        def kill():
            while len(killed) < 2:
                time.sleep(0.7)
                for process in pool.processes[:1]:
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

        threading.Thread(target=kill, daemon=True).start()

    products = read_manifest(plant, changes=TINY)
    rows = list(
        train_products(products, str(tmp_path), Engine(workers=1), device="cpu", opened=kill_soon)
    )
    assert len(killed) == 2
    assert {row.product: row.state for row in rows} == dict.fromkeys(models(alone), "trained")
    assert max(row.attempts for row in rows) > 1
    assert models(tmp_path) == models(alone)


def test_a_run_that_is_killed_goes_on(here, plant, tmp_path, alone):
    store = tmp_path / "store"
    command = [sys.executable, "-m", "cflow_ad", "fleet", "train", plant, "--store", store]
    first = subprocess.Popen([*map(str, command), *OPTIONS, "--workers", "1", "--threads", "1"])
    end = time.monotonic() + 120
    while not list(store.glob("versions/*/*.json")):
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    done, expected = models(store), models(alone)
    assert set(done) < set(expected)
    waiting = {row.product for row in fleet_status(ModelStore(store)) if row.state == "waiting"}
    assert waiting == set(expected) - set(done)
    result = run("fleet", "train", plant, "--store", store, *OPTIONS, "--workers", 1, "--json")
    assert result.exit_code == 0
    states = {row["product"]: row["state"] for row in json.loads(result.stdout)}
    assert states == {name: "kept" if name in done else "trained" for name in expected}
    assert models(store) == expected


def test_a_failure_is_named_and_leaves_the_others_alone(here, plant, tmp_path):
    root = tmp_path / "plant"
    shutil.copytree(plant.parent, root)
    with (root / "manifest.csv").open("a") as file:
        file.write("missing,nowhere,3\nwrong,p0/train/good,-3\n")
    damaged = next((root / "p1" / "train" / "good").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    command = ("fleet", "train", root / "manifest.csv", "--store", tmp_path / "store", *OPTIONS)
    result = run(*command, "--workers", 1)
    assert result.exit_code == 1
    status = run("fleet", "status", "--store", tmp_path / "store", "--json")
    assert status.exit_code == 0
    rows = {row["product"]: row for row in json.loads(status.stdout)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "part 0": "trained",
        "part 1": "failed",
        "part 2": "trained",
        "missing": "failed",
        "wrong": "failed",
    }
    assert damaged.name in rows["part 1"]["error"]
    assert "no such folder" in rows["missing"]["error"]
    assert "line 6" in rows["wrong"]["error"]
    for name in ("part 1", "missing", "wrong"):
        assert rows[name]["error"] in result.stdout


def test_other_images_or_settings_are_another_version(plant, tmp_path):
    folder = tmp_path / "good"
    shutil.copytree(plant.parent / "p0" / "train" / "good", folder)
    manifest = tmp_path / "manifest.csv"
    store = tmp_path / "store"

    def train(steps):
        manifest.write_text(f"product,good,steps\nscrew,good,{steps}\n")
        products = read_manifest(manifest, changes=TINY)
        done = Trainer(str(store), threads=1, device="cpu")(products[0])
        return done.is_new, done.version.version

    _, first = train(3)
    assert train(3) == (False, first)
    _, longer = train(4)
    next(folder.iterdir()).unlink()
    is_new, fewer = train(3)
    assert is_new
    assert len({first, longer, fewer}) == 3
    assert ModelStore(store).promoted("screw") == first
    listed = json.loads(run("fleet", "status", "--store", store, "--all", "--json").stdout)
    assert [row["version"] for row in listed] == [first, longer, fewer]

    data = plant.parent / "p0"
    compared = run("fleet", "compare", "screw", data, "--store", store, "--json")
    versions = json.loads(compared.stdout)["versions"]
    assert [row["version"] for row in versions] == [first, fewer]
    assert all(0 <= row["image_auroc"] <= 1 for row in versions)
    shown = run("fleet", "compare", "screw", data, "--store", store, "--after", longer[:6])
    assert longer[:6] in shown.stdout
    assert "images change" in shown.stdout

    assert run("fleet", "promote", "screw", "--store", store).exit_code == 0
    assert ModelStore(store).promoted("screw") == fewer
    assert first in run("fleet", "rollback", "screw", "--store", store).stdout


def test_a_pulled_model_predicts(trained, plant, tmp_path, alone):
    store, _ = trained
    result = run("fleet", "pull", "part 1", "--store", store, "-o", tmp_path / "m.safetensors")
    assert result.exit_code == 0
    model = (tmp_path / "m.safetensors").read_bytes()
    assert hashlib.sha256(model).hexdigest() == models(alone)["part 1"]
    image = next((plant.parent / "p1" / "train" / "good").iterdir())
    assert Detector.load(tmp_path / "m.safetensors", device="cpu").predict(image).score >= 0
    line = refused_command(
        "fleet", "pull", "nut", "--store", store, "-o", tmp_path / "n.safetensors"
    )
    assert "there is no model of 'nut'" in line


def test_mistakes_are_one_line(plant, tmp_path):
    store = ("--store", tmp_path / "store")
    assert "spark" in refused_command("fleet", "train", plant, *store, "--engine", "spark")
    assert "no such" in refused_command("fleet", "train", tmp_path / "none.csv", *store).lower()
    assert "s3://" in refused_command("fleet", "status", "--store", "ftp://a")
    assert "no products" in run("fleet", "status", *store).stdout


def test_without_ray_the_engine_is_refused(plant, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused_command("fleet", "train", plant, "--store", tmp_path, "--engine", "ray")
    assert "this needs ray, which is not installed: pip install 'cflow-ad[fleet]'" in line
