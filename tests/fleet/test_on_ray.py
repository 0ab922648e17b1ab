"""Ray: nothing lost and nothing twice where a worker and a node are, and the same bytes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.scoring import Scoring, score_archive
from tests.cli.commands import run
from tests.fleet.conftest import OPTIONS, models

pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(alone, tmp_path_factory):
    """The model of a product."""
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    ModelStore(alone).pull("part 0", file)
    return file


def run_cluster(*arguments):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "fleet" / "cluster.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
        timeout=540,
    )


def test_a_worker_and_a_node_are_lost_and_nothing_else(here, plant, alone, model, tmp_path):
    done = run_cluster(plant, tmp_path / "store", plant.parent, model, tmp_path / "scores")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["events"] == ["killed", "removed"]
    assert result["states"] == dict.fromkeys(models(alone), "trained")
    assert result["attempts"] > 3
    assert result["errors"] == []
    assert models(tmp_path / "store") == models(alone)
    wanted = Scoring(str(plant.parent), model, tmp_path / "alone", per_shard=4, device="cpu")
    assert not any(end.error for end in score_archive(wanted, Engine(workers=1)))
    scores, expected = (
        {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
        for folder in (tmp_path / "scores", tmp_path / "alone")
    )
    assert scores == expected


LISTENING = "0A"


def listening(of):
    """Addresses that processes whose name contains one of `of` listen on, as Linux has them."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                sockets[fields[9]] = fields[1].rpartition(":")[0]
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_text()
            if any(part in name for part in of):
                links = [str(link.readlink()) for link in (process / "fd").iterdir()]
                numbers = (re.fullmatch(r"socket:\[(\d+)\]", link) for link in links)
                found |= {sockets[n[1]] for n in numbers if n and n[1] in sockets}
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="not Linux")
def test_the_ray_of_one_machine_listens_to_itself_alone_and_ends_with_the_command(
    here, plant, alone, tmp_path
):
    store = tmp_path / "store"
    arguments = ["fleet", "train", plant, "--store", store, "--workers", "1", "--threads", "1"]
    arguments += OPTIONS
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, "-m", "cflow_ad", *map(str, arguments), "--engine", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT / "src")},
    )
    end = time.monotonic() + 200
    while not list(store.glob("versions/*/*.json")):
        assert time.monotonic() < end
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.05)
    addresses = listening(["raylet", "gcs_server"])
    assert addresses
    assert {_is_loopback(address) for address in addresses} == {True}
    driver.kill()  # Ray ends with it, and the next run goes on
    _, said = driver.communicate()
    assert all(re.match(r"\d of 3: part", line) for line in said.splitlines())  # nothing of Ray
    again = run(*arguments)
    assert again.exit_code == 0
    assert "part 0 kept" in again.stderr
    assert models(store) == models(alone)


def _is_loopback(address):
    return address in ("0100007F", "0000000000000000FFFF00000100007F")
