"""What a station does when something breaks: nothing that was answered is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

from cflow_ad.cli import app
from cflow_ad.errors import ModelFileError, StationError
from cflow_ad.station import database as database_module
from cflow_ad.station import inspector
from cflow_ad.station import station as station_module
from cflow_ad.station.database import as_stored
from cflow_ad.station.locking import Lock
from cflow_ad.station.verify import verify as find_faults
from tests.station.conftest import Client, Served
from tests.station.test_background import free_port, wait_for


def verify(folder):
    return CliRunner().invoke(app, ["records", "verify", "--data", str(folder)])


def test_killed_under_load_it_loses_nothing_that_was_answered(
    model_file, serve, pictures, tmp_path
):
    data, port = tmp_path / "data", free_port()
    answered: dict[str, float] = {}
    running = threading.Event()
    running.set()

    def ask(number):
        count = 0
        with served.client() as http:
            while running.is_set():
                count += 1
                send = functools.partial(
                    http.post,
                    "/v1/models/part/inspect",
                    content=pictures[count % 12],
                    headers={"Idempotency-Key": f"{number}/{count}"},
                )
                # As a line does: again, with the same key, until there is an answer.
                while running.is_set() and not try_once(send):
                    time.sleep(0.05)

    def try_once(send):
        with contextlib.suppress(httpx.HTTPError):
            answer = send()
            if answer.status_code == 200:
                row = answer.json()
                assert row["id"] not in answered
                answered[row["id"]] = row["score"]
                return True
        return False

    served = serve(model_file, "--data", data, port=port)
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) >= 25)
    served.kill()
    enough = len(answered) + 15
    served.start(port=port)
    wait_for(lambda: len(answered) >= enough)
    served.kill()
    running.clear()
    for thread in threads:
        thread.join()
    with contextlib.closing(sqlite3.connect(data / "station.db")) as connection:
        recorded = connection.execute("select id, score, request from inspections").fetchall()
    scores = {row[0]: row[1] for row in recorded}
    assert answered.items() <= scores.items()
    assert len({row[2] for row in recorded}) == len(recorded), "none twice"
    done = verify(data)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def limited(model_file, tmp_path_factory):
    """A station in a process of its own that waits a moment only for what is sent."""
    folder = tmp_path_factory.mktemp("limited")
    written = folder / "station.toml"
    written.write_text("[limits]\nupload_seconds = 3\nqueue = 4\n")
    served = Served(folder, model_file, "--data", folder / "data", "--config", written).start()
    yield served
    served.kill()


def test_a_slow_client_is_ended_and_holds_nobody_up(limited, pictures):
    served, key = limited, (limited.folder / "key").read_text().strip()
    host, port = served.url.removeprefix("http://").split(":")
    slow = []
    for _ in range(30):
        each = socket.create_connection((host, int(port)))
        each.sendall(
            f"POST /v1/models/part/inspect HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: image/png\r\n\r\nx".encode()
        )
        slow.append(each)
    with served.client() as client:
        answer = client.post("/v1/models/part/inspect", content=pictures[0])
        assert answer.status_code == 200
    for each in slow:
        each.settimeout(60)
        assert b"408" in each.recv(4096).split(b"\r\n")[0]
        each.close()


def test_a_body_that_is_shorter_than_it_says_is_no_inspection(limited):
    served, key = limited, (limited.folder / "key").read_text().strip()
    with served.client() as client:
        before = client.get("/v1/inspections").json()["items"]
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    connection.putrequest("POST", "/v1/models/part/inspect")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Length", "5000")
    connection.endheaders(b"\x89PNG")
    connection.close()
    with served.client() as client:
        assert client.get("/v1/inspections").json()["items"] == before
        assert client.get("/health/ready").status_code == 200
        assert "cflow_ad_waiting 0.0" in client.get("/metrics").text


def test_a_locked_database_is_waited_for_and_then_refused(client, pictures, config, monkeypatch):
    monkeypatch.setattr(database_module, "_PATIENCE", 0.5)
    with contextlib.closing(sqlite3.connect(config.data / "station.db")) as other:
        other.isolation_level = None
        other.execute("begin immediate")
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(
                client.post("/v1/models/part/inspect", content=pictures[0])
            )
        )
        asking.start()
        time.sleep(0.5)
        assert not answers
        other.execute("rollback")
        asking.join()
        assert answers[0].status_code == 200
        other.execute("begin immediate")
        answer = client.post("/v1/models/part/inspect", content=pictures[1])
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "locked" in answer.json()["detail"]
        mark = {"ids": [answers[0].json()["id"]], "label": "good"}
        assert client.post("/v1/marks", json=mark).status_code == 503
        assert client.get("/health/ready").status_code == 503
        other.execute("rollback")
    wait_for(lambda: client.get("/health/ready").status_code == 200)
    assert client.inspect(pictures[1])["seq"] == 2
    assert len(list(config.data.glob("pictures/????-*/*"))) == 2, "no picture without a record"


def test_a_full_disk_is_said_and_nothing_is_answered_without_a_record(client, pictures, config):
    engine = client.station.database.engine
    full = [True]

    @event.listens_for(engine, "begin")
    def _limit(connection):
        pages = connection.exec_driver_sql("pragma page_count").scalar()
        limit = pages if full[0] else 2**30
        connection.exec_driver_sql(f"pragma max_page_count = {limit}")

    statuses = [
        client.post("/v1/models/part/inspect", content=data).status_code for data in pictures * 3
    ]
    assert 503 in statuses
    assert client.get("/health/ready").status_code == 503
    full[0] = False
    wait_for(lambda: client.get("/health/ready").status_code == 200)
    answer = client.inspect(pictures[0])
    assert answer["seq"] == statuses.count(200) + 1
    assert verify(config.data).exit_code == 0


def test_a_model_file_that_becomes_garbage_harms_nothing(config, model_file, pictures, tmp_path):
    path = tmp_path / "part.safetensors"
    shutil.copyfile(model_file, path)
    config = dataclasses.replace(config, models=(path,))
    with Client(config) as client:
        before = client.inspect(pictures[0])["score"]
        path.write_bytes(b"garbage")
        assert client.inspect(pictures[0])["score"] == before
    with Client(config) as client:
        assert client.inspect(pictures[0])["score"] == before
        event = client.get("/v1/events?kind=model").json()["items"][0]
        assert "stays in use" in event["data"]["text"]
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"garbage")
    fresh = dataclasses.replace(config, models=(other,), data=tmp_path / "fresh")
    with pytest.raises(ModelFileError, match=r"other\.safetensors"):
        Client(fresh)
    with Client(dataclasses.replace(fresh, models=(model_file,))):
        pass  # what failed to open lets go of its folder


def test_a_fault_of_the_model_store_stops_no_cleaning(client, monkeypatch):
    station, cleaned = client.station, []
    monkeypatch.setattr(station_module, "_CLEAN_EVERY", 0.01)
    monkeypatch.setattr(station.pictures, "clean", cleaned.append)

    class Broken:
        def follow(self):
            raise OSError("no space for a temporary file")

    station._store = Broken()
    cleaning = threading.Thread(target=station._clean)
    cleaning.start()
    wait_for(lambda: len(cleaned) > 1)
    station._stopping.set()
    cleaning.join()


def test_the_folder_of_today_stays_while_pictures_are_deleted(client):
    """A picture may be on its way into it."""
    days = [client.station.pictures.folder / day for day in ("2026-05-03", "2026-05-04")]
    for day in days:
        day.mkdir()
    client.station.pictures.clean(client.station.database)
    assert [day.exists() for day in days] == [False, True]


def test_a_clock_that_is_set_back_changes_neither_order_nor_seals(
    client, pictures, config, monkeypatch
):
    first = client.inspect(pictures[0])
    earlier = as_stored(datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setattr(inspector, "now", lambda: earlier)
    second = client.inspect(pictures[1])
    assert second["time"] < first["time"]
    listed = client.get("/v1/inspections").json()["items"]
    assert [row["id"] for row in listed] == [second["id"], first["id"]]
    assert verify(config.data).exit_code == 0


def test_two_stations_cannot_share_a_folder(tmp_path):
    first = Lock(tmp_path)
    with pytest.raises(StationError, match="another station"):
        Lock(tmp_path)
    first.release()
    Lock(tmp_path).release()


def test_of_a_batch_only_what_fails_is_not_written(client):
    from cflow_ad.station.schema import states

    database = client.station.database
    hold = threading.Event()
    database.submit(lambda connection: hold.wait(10))  # so that the rest is one batch

    def good(name):
        return lambda c: c.execute(states.insert().values(name=name, value=1))

    def bad(connection):
        connection.execute(states.insert().values(name="half", value=1))
        raise ValueError("no")

    futures = [database.submit(work) for work in (good("a"), bad, good("b"), good("a"))]
    hold.set()
    assert futures[0].exception() is None
    assert isinstance(futures[1].exception(), ValueError)
    assert futures[2].exception() is None
    assert futures[3].exception() is not None, "a name twice"
    assert client.station.load_state("a") == client.station.load_state("b") == 1
    assert client.station.load_state("half") is None


@pytest.fixture
def postgres():
    """Start and stop a real server; its URL."""
    pytest.importorskip("psycopg")
    found = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        Path(shutil.which("initdb") or "/nowhere/initdb").parent,
    ]
    programs = next((each for each in found if (each / "initdb").exists()), None)
    if programs is None:
        pytest.skip("needs PostgreSQL's programs")
    folder = Path(tempfile.mkdtemp(prefix="cflow-postgres-"))
    who = {}
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "nobody")
        who = {"user": "nobody"}
    port = free_port()

    def run(program, *arguments):
        command = [programs / program, "-D", folder / "data", *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **who)

    def start():
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "start", "-w", "-l", folder / "log", "-o", options)

    def stop():
        run("pg_ctl", "stop", "-m", "immediate")

    run("initdb", "-A", "trust", "-U", "station")
    start()
    yield f"postgresql://station@127.0.0.1:{port}/postgres", start, stop
    with contextlib.suppress(subprocess.CalledProcessError):
        stop()
    shutil.rmtree(folder)


def test_on_postgresql_a_restart_of_the_server_loses_nothing(config, pictures, odd, postgres):
    url, start, stop = postgres
    config = dataclasses.replace(config, database=url)
    with Client(config) as client:
        first = client.inspect(pictures[0])
        client.post("/v1/marks", json={"ids": [first["id"]], "label": "good"})
        stop()
        answers = []
        threading.Timer(1.0, start).start()
        # Keys are looked up in the database too: ask as the station's own sources do.
        asking = threading.Thread(
            target=lambda: answers.append(
                client.station.inspector.inspect(odd, "part").result().written.result()
            )
        )
        asking.start()
        asking.join()
        assert answers[0]["seq"] == 2
        wait_for(lambda: client.get("/v1/inspections").status_code == 200)
        rows = client.get("/v1/inspections").json()["items"]
        assert [row["seq"] for row in rows] == [2, 1]
        assert rows[1]["mark"]["label"] == "good"
        assert rows[1]["score"] == first["score"]
        assert client.get("/v1/review").status_code == 200
        preview = client.get("/v1/models/part/thresholds/preview", params={"value": 1})
        assert preview.json()["n"] == 2
        assert list(find_faults(config)) == []
