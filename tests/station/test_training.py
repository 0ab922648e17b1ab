"""Training jobs: in a process of their own, watched, cancelled, compared and put to use."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cflow_ad.errors import DataError, FolderError, StationError
from cflow_ad.station.locking import try_lock
from cflow_ad.station.training import child
from cflow_ad.station.training import jobs as jobs_module
from cflow_ad.station.training.jobs import Jobs
from cflow_ad.station.training.parts import list_marked_parts
from tests.station.conftest import Client
from tests.station.test_background import wait_for


@pytest.fixture
def toy(toy_settings):
    values = toy_settings.to_dict()
    return {k: values[k] for k in ("backbone", "weights", "size", "strides", "batch_size")}


def state(client, number):
    return client.get(f"/v1/jobs/{number}").json()["state"]


def ended(client, number):
    return wait_for(lambda: (job := client.get(f"/v1/jobs/{number}").json())["state"] != "running"
                    and job, 200)  # fmt: skip


def test_a_job_survives_the_service_and_its_model_is_compared_and_put_to_use(
    config, toy, carpet_folder, pictures, odd
):
    config = dataclasses.replace(config, roots=(carpet_folder,))
    with Client(config) as client:
        parts = [client.inspect(data) for data in (pictures[0], odd)]
        for part, label in zip(parts, ("good", "defect"), strict=True):
            client.post("/v1/marks", json={"ids": [part["id"]], "label": label})
        listed = client.get("/v1/folders", params={"path": str(carpet_folder / "train")}).json()
        assert [(f["name"], f["images"]) for f in listed["folders"]] == [("good", 12)]
        job = client.station.jobs.begin(
            "part", "eva", images=carpet_folder / "train" / "good", settings={**toy, "steps": 60}
        )
        again = {"model": "part", "folder": str(carpet_folder / "train" / "good")}
        assert client.post("/v1/jobs", json=again).status_code == 409, "one at a time"
    with Client(dataclasses.replace(config, models=())) as client:
        job = ended(client, job["id"])
        assert job["state"] == "done", job
        wait_for(lambda: not list((config.data / "jobs").rglob("*.safetensors")))
        compared = client.get(f"/v1/jobs/{job['id']}/comparison").json()
        assert {item["id"]: item["old_score"] for item in compared["items"]} == {
            part["id"]: part["score"] for part in parts
        }
        assert compared["summary"]["defect"]["of"] == 1
        before = client.get("/v1/models/part").json()
        assert before["version"] != job["version"], "nobody put it to use yet"
        body = {"version": job["version"], "reason": "new light"}
        after = client.post("/v1/models/part/promote", json=body).json()
        assert after["version"] == job["version"]
        score = client.inspect(odd)["score"]
        new = next(item["new_score"] for item in compared["items"] if item["label"] == "defect")
        assert score == pytest.approx(new, rel=1e-5)
    with Client(config) as client:  # the file of the command line is known, and changes nothing
        assert client.get("/v1/models/part").json()["version"] == job["version"]
        back = {"version": before["version"], "reason": "worse at night"}
        client.post("/v1/models/part/promote", json=back)
        assert client.inspect(odd)["score"] == parts[1]["score"]
        reasons = [row["reason"] for row in client.get("/v1/models/part/changes").json()["items"]]
        assert reasons[:2] == ["worse at night", "new light"]
        assert (
            client.post("/v1/models/part/promote", json={**back, "version": 99}).status_code == 404
        )


def test_a_job_can_be_cancelled_and_one_that_was_killed_goes_on(config, toy, carpet_folder):
    with Client(config) as client:
        jobs = client.station.jobs
        images = carpet_folder / "train" / "good"
        number = jobs.begin("part", "eva", images=images, settings={**toy, "steps": 100_000})["id"]
        lock = config.data / "jobs" / number / "lock"
        progress = config.data / "jobs" / number / "progress.json"
        wait_for(lambda: progress.exists() and json.loads(progress.read_text())["stage"] == "train")
        first = int(lock.read_text())
        os.kill(first, signal.SIGKILL)
        second = wait_for(lambda: (p := int(lock.read_text() or first)) != first and p)
        assert state(client, number) == "running"
        assert client.post(f"/v1/jobs/{number}/cancel").status_code == 200
        assert ended(client, number)["state"] == "cancelled"
        assert client.post(f"/v1/jobs/{number}/cancel").status_code == 409
        with pytest.raises(ProcessLookupError):
            os.kill(second, 0)


def test_what_cannot_be_trained_is_refused_or_said(config, client, tmp_path, toy, monkeypatch):
    job = {"model": "part", "folder": str(tmp_path)}
    assert client.post("/v1/jobs", json=job).status_code == 422, "not under a root"
    sneaky = {**job, "folder": str(tmp_path / "data" / ".." / "..")}
    assert client.post("/v1/jobs", json=sneaky).status_code == 422
    answer = client.post("/v1/jobs", json={"model": "part", "history": {}})
    assert answer.status_code == 409
    assert "marked good" in answer.json()["detail"]
    # What the process does, in this one, whose priority stays.
    monkeypatch.delattr(os, "nice", raising=False)
    monkeypatch.setattr(child, "tune_process", lambda: None)
    monkeypatch.setattr(Jobs, "_spawn", lambda jobs, number: child.main(jobs._folder / number))
    (tmp_path / "empty").mkdir()
    number = client.station.jobs.begin("part", "eva", images=tmp_path / "empty", settings=toy)["id"]
    done = ended(client, number)
    assert done["state"] == "failed"
    assert "empty" in done["error"]
    assert (done["code"], done["values"]) == (
        "training.no_images", {"folder": str(tmp_path / "empty")}
    )  # fmt: skip


def test_a_part_that_another_version_scored_is_scored_by_the_model_in_use(
    client, odd, toy_detector, model_file
):
    number = client.inspect(odd)["id"]
    client.post("/v1/marks", json={"ids": [number], "label": "defect"})
    version = client.station.registry.active("part")
    (own,) = list_marked_parts(client.station, version)
    assert own["old_score"] == client.get(f"/v1/inspections/{number}").json()["score"]
    (other,) = list_marked_parts(client.station, dataclasses.replace(version, id=7))
    job = {"parts": [other], "old": {"file": str(model_file), "threshold": 1e9}, "device": "cpu"}
    (compared,) = child.compare(toy_detector, job, lambda done: None)
    assert compared["old_score"] == pytest.approx(own["old_score"], rel=1e-5)
    assert compared["old_anomalous"] is False


@pytest.mark.parametrize(
    ("error", "code", "values"),
    [
        (DataError("no", code="training.depths", n=2), "training.depths", {"n": 2}),
        (FolderError("which are good?"), "training.folders", {"file": "job/log.txt"}),
        (RuntimeError("a fault"), "training.fault", {"file": "job/log.txt"}),
        (
            ModuleNotFoundError("no torch", name="torch"),
            "library.missing",
            {"library": "torch", "extra": "train"},
        ),
    ],
)
def test_each_failure_has_a_code(error, code, values):
    told = child.describe_failure(error, Path("job"))
    assert (told["code"], told["values"]) == (code, values)


def test_of_two_trainings_that_begin_at_once_one_is_refused(client, carpet_folder, monkeypatch):
    both = threading.Barrier(2)

    def list_parts(station, version):
        both.wait(60)
        return []

    monkeypatch.setattr(jobs_module, "list_marked_parts", list_parts)
    monkeypatch.setattr(Jobs, "_spawn", lambda jobs, number: None)

    def begin(_):
        try:
            return client.station.jobs.begin("part", "eva", images=carpet_folder)["state"]
        except StationError as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(begin, range(2))) == ["running", "training.another"]
    assert len(list((client.station.config.data / "jobs").iterdir())) == 1


def test_a_job_runs_as_long_as_a_process_holds_its_lock(client, carpet_folder, monkeypatch):
    """Also where the one that this station started found it held, and ended."""
    held = []

    def spawn(jobs, number):
        held.append((jobs._folder / number / "lock").open("a+"))
        assert try_lock(held[-1])
        jobs._children[number] = subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(Jobs, "_spawn", spawn)
    number = client.station.jobs.begin("part", "eva", images=carpet_folder)["id"]
    wait_for(lambda: held and client.station.jobs._children[number].poll() is not None)
    time.sleep(2.0)
    assert state(client, number) == "running"
    assert len(held) == 1
    (client.station.config.data / "jobs" / number / "cancel").touch()
    held[0].close()
    assert ended(client, number)["state"] == "cancelled"
