"""The record: what was scored by what, by whom it was marked, and that nothing was altered."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from cflow_ad.cli import app
from cflow_ad.errors import StationError
from cflow_ad.station import backup, inspector
from cflow_ad.station.backup import back_up
from cflow_ad.station.config import Retention, StationConfig
from cflow_ad.station.schema import marks, sightings
from cflow_ad.station.verify import verify
from tests.station.conftest import Client


@pytest.fixture
def recorded(config, pictures, odd):
    """The folder of a station that inspected, marked, and changed its threshold."""
    with Client(dataclasses.replace(config, audit_share=1.0)) as client:
        ids = [client.inspect(data)["id"] for data in (*pictures[:4], odd)]
        client.post("/v1/marks", json={"ids": ids[:2], "label": "good"})
        client.post("/v1/models/part/thresholds", json={"value": 9.5, "reason": "a test"})
        client.inspect(odd)
    return config.data


def records(*arguments):
    return CliRunner().invoke(app, ["records", *map(str, arguments)])


def change(folder, *statements):
    with contextlib.closing(sqlite3.connect(folder / "station.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_whole_record_is_found_whole_and_scores_come_again(recorded):
    done = records("verify", "--data", recorded)
    assert done.exit_code == 0, done.output
    assert "whole" in done.output


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("update inspections set score = score + 1 where seq = 3", "inspections 3: altered"),
        (
            "update inspections set is_anomalous = 1 - is_anomalous where seq = 1",
            "inspections 1: a",
        ),
        ("update inspections set seal = 'x' where seq = 6", "inspections 6: altered"),
        ("update thresholds set author = 'somebody' where id = 2", "thresholds 2: altered"),
        ("update marks set label = 'defect' where id = 1", "marks 1: altered"),
        ("delete from model_changes", "model_changes 1: missing"),
        ("delete from marks where id = 2", "marks 2: missing"),
        ("delete from thresholds where id = 1", "thresholds 1: missing"),
    ],
)
def test_what_was_altered_or_is_missing_shows(recorded, statement, said):
    change(recorded, "pragma foreign_keys = off", statement)
    done = records("verify", "--data", recorded, "--rescore", "0")
    assert done.exit_code == 1
    assert said in done.output


def test_inspections_cut_from_the_end_or_the_middle_show(recorded):
    change(recorded, *(f"delete from {t} where seq = 3" for t in ("pictures", "inspections")))
    assert "inspections 3: missing" in records("verify", "--data", recorded, "--rescore=0").output
    change(recorded, *(f"delete from {t} where seq > 4" for t in ("pictures", "inspections")))
    done = records("verify", "--data", recorded, "--rescore", "0")
    assert "inspections 5 to 6: missing" in done.output


def test_an_altered_picture_or_model_shows(recorded):
    path = next((recorded / "pictures").glob("????-*/*.png"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    model = next((recorded / "models").glob("*/*.safetensors"))
    model.write_bytes(model.read_bytes() + b"x")
    done = records("verify", "--data", recorded, "--rescore", "0")
    assert done.exit_code == 1
    assert f"({path}): altered" in done.output.replace("\n", "")
    assert f"model {model}: altered" in done.output.replace("\n", "")


def test_a_score_that_does_not_come_again_shows(recorded, images, toy_settings):
    """Where record and seals were forged with the station's own key."""
    from cflow_ad.station import chain
    from cflow_ad.station.database import Database
    from cflow_ad.station.schema import inspections

    key = (recorded / "station.key").read_bytes()
    database = Database(f"sqlite:///{recorded / 'station.db'}")

    def forge(connection):
        row = dict(
            connection.execute(inspections.select().order_by(inspections.c.seq)).first()._mapping
        )
        row["score"] += 0.5
        seal = chain.compute_seal(inspections, row, "0" * 64, key)
        connection.execute(
            inspections.update().where(inspections.c.seq == 1).values(score=row["score"], seal=seal)
        )

    database.write(forge)
    database.close()
    done = records("verify", "--data", recorded)
    assert "in the record" in done.output
    assert done.exit_code == 1


def test_a_picture_that_is_deleted_during_the_check_is_not_missing(recorded, monkeypatch):
    with contextlib.closing(sqlite3.connect(recorded / "station.db")) as connection:
        ((name,),) = connection.execute("select file from pictures where seq = 1")
    oldest, read_bytes = recorded / "pictures" / name, Path.read_bytes

    def read(path):
        if path.suffix == ".png" and oldest.exists():
            oldest.unlink()
            change(recorded, "delete from pictures where seq = 1")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert list(verify(StationConfig(data=recorded), rescore=0)) == []
    assert not oldest.exists()


def test_export_writes_every_row(recorded, tmp_path):
    done = records("export", tmp_path / "all.csv", "--data", recorded)
    assert done.exit_code == 0, done.output
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seq"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [row["mark"] for row in rows] == ["good", "good", "", "", "", ""]
    parquet = pytest.importorskip("pyarrow.parquet")
    records("export", tmp_path / "all.parquet", "--data", recorded)
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table["score"].to_pylist() == [float(row["score"]) for row in rows]
    assert records("export", tmp_path / "all.txt", "--data", recorded).exit_code == 2
    assert records("export", tmp_path / "x.csv", "--data", tmp_path / "no").exit_code == 2


def test_which_model_and_threshold_a_part_had_is_one_query(recorded):
    with contextlib.closing(sqlite3.connect(recorded / "station.db")) as connection:
        rows = connection.execute(
            "select i.seq, m.sha256, t.value, t.author, t.reason from inspections i "
            "join models m on m.id = i.version join thresholds t on t.id = i.threshold_id "
            "where i.seq in (5, 6) order by i.seq"
        ).fetchall()
    assert [row[4] for row in rows] == ["as calibrated", "a test"]
    assert rows[1][2] == 9.5
    assert rows[0][1] == rows[1][1]


def test_a_mark_is_the_last_ones_and_can_be_undone(client, pictures):
    ids = [client.inspect(data)["id"] for data in pictures[:3]]
    client.inspect(pictures[3])

    def labels():
        rows = client.get("/v1/inspections").json()["items"][:0:-1]
        return [row["mark"] and row["mark"]["label"] for row in rows]

    first = client.post("/v1/marks", json={"ids": ids, "label": "good"}).json()["batch"]
    second = client.post("/v1/marks", json={"ids": ids[:1], "label": "defect"}).json()["batch"]
    assert labels() == ["defect", "good", "good"]
    assert client.post("/v1/marks/undo", json={"batch": first}).status_code == 409
    assert client.post("/v1/marks/undo", json={"batch": second}).status_code == 200
    assert labels() == ["good", "good", "good"]
    marks = client.get(f"/v1/inspections/{ids[0]}/marks").json()["items"]
    assert [mark["label"] for mark in marks] == ["good", "defect", "good"]
    assert all(mark["author"] == "key tests" for mark in marks)
    found = {m: len(client.get("/v1/inspections", params={"mark": m}).json()["items"])
             for m in ("good", "defect", "any", "none")}  # fmt: skip
    assert found == {"good": 3, "defect": 0, "any": 3, "none": 1}
    assert client.post("/v1/marks", json={"ids": ["x"], "label": "good"}).status_code == 404
    listed = {m: len(client.get("/v1/marks", params={"model": m}).json()["items"])
              for m in ("part", "other")}  # fmt: skip
    assert listed == {"part": 5, "other": 0}


def test_a_time_of_another_zone_is_that_moment(client, pictures, monkeypatch):
    monkeypatch.setattr(inspector, "now", lambda: "2026-05-04T06:12:09.120443Z")
    client.inspect(pictures[0])
    moments = ("2026-05-04T08:12:09.12+02:00", "2026-05-04T06:12:09.12", "2026-05-04T06:12:09.12Z")
    for moment in moments:
        for name, n in (("since", 1), ("until", 0)):
            items = client.get("/v1/inspections", params={name: moment}).json()["items"]
            assert len(items) == n, (name, moment)
    assert client.get("/v1/inspections?since=").status_code == 200
    assert client.get("/v1/inspections?since=yesterday").status_code == 422


def test_a_misspelt_field_is_refused(client, pictures):
    body = {"ids": [client.inspect(pictures[0])["id"]], "label": "good", "blnd": True}
    answer = client.post("/v1/marks", json=body)
    assert answer.status_code == 422
    assert "blnd" in answer.json()["detail"]
    assert client.get("/v1/marks").json()["items"] == []


def test_the_queue_hides_the_verdict_of_drawn_parts(config, pictures, odd):
    with Client(dataclasses.replace(config, audit_share=1.0)) as client:
        number = client.inspect(odd)["id"]
        client.inspect(pictures[0])
        queue = client.get("/v1/review").json()
        assert queue["counts"] == {"anomalous": 0, "near": 0, "audit": 2}
        for item in queue["items"]:
            told = {"score", "is_anomalous", "regions", "p_value", "odds", "threshold", "measures"}
            assert not told & set(item)
        client.post("/v1/marks", json={"ids": [number], "label": "defect"})
        assert client.get("/v1/review").json()["counts"]["audit"] == 1


def test_only_blind_marks_of_the_draw_say_anything_of_rates(config, pictures, odd):
    with Client(dataclasses.replace(config, audit_share=1.0)) as client:
        drawn = [client.inspect(data)["id"] for data in (pictures[0], odd, odd)]
    with Client(dataclasses.replace(config, audit_share=0.0)) as client:
        flagged = client.inspect(odd)["id"]
        client.post("/v1/marks", json={"ids": [flagged], "label": "good", "blind": True})
        assert client.get("/v1/models/part/audit").json()["n"] == 0
        first = client.post(
            "/v1/marks", json={"ids": drawn[:1], "label": "good", "blind": True}
        ).json()
        assert client.get("/v1/models/part/audit").json()["n"] == 1
        client.post("/v1/marks/undo", json={"batch": first["batch"]})
        client.post("/v1/marks", json={"ids": drawn[:1], "label": "good", "blind": True})
        audit = client.get("/v1/models/part/audit").json()
        assert audit["n"] == 0, "after it was undone the verdict had been in view"
        seen = client.post("/v1/marks", json={"ids": drawn[1:2], "label": "good"}).json()["batch"]
        assert client.get("/v1/models/part/audit").json()["n"] == 0, "not said to be blind"
        client.post("/v1/marks/undo", json={"batch": seen})
        client.post("/v1/marks", json={"ids": drawn[2:], "label": "good", "blind": True})
        audit = client.get("/v1/models/part/audit").json()
        assert audit["false_alarms"]["of"] == 1
        assert audit["drawn"] == 3


def test_who_was_told_a_verdict_is_not_blind_to_it(config, pictures, odd):
    """By any route that a page asks; others are as blind to it as before."""
    with Client(dataclasses.replace(config, audit_share=1.0)) as client:
        part, other = (client.inspect(data)["id"] for data in (pictures[0], odd))
        database = client.station.database

        def log_in(name):
            client.station.auth.add_user(name, "operator", "long enough")
            page = TestClient(client.application, base_url="http://127.0.0.1")
            answer = page.post("/v1/session", json={"user": name, "password": "long enough"})
            page.headers["X-CSRF-Token"] = answer.json()["csrf"]
            return page

        def blind(page):
            database.write(lambda connection: None)  # what was submitted before is written now
            items = page.get("/v1/review?kind=audit").json()["items"]
            return {item["id"] for item in items}

        ada, bob = log_in("ada"), log_in("bob")
        for path in (
            "/v1/inspections",
            f"/v1/inspections/{part}",
            f"/v1/inspections/{part}/heat",
            f"/v1/inspections/{other}/similar",
            "/v1/models/part/thresholds/preview?value=-1",
        ):
            assert blind(ada) == {part, other}
            assert ada.get(path).status_code == 200
            assert part not in blind(ada), path
            assert blind(bob) == {part, other}
            database.write(lambda connection: connection.execute(sightings.delete()))
        sent = ada.post("/v1/models/part/inspect", content=pictures[1]).json()["id"]
        assert sent in blind(bob) - blind(ada)
        ada.get(f"/v1/inspections/{part}")
        for page, n in ((ada, 0), (bob, 1)):
            page.post("/v1/marks", json={"ids": [part], "label": "good", "blind": True})
            assert client.get("/v1/models/part/audit").json()["n"] == n
            database.write(lambda connection: connection.execute(marks.delete()))


def test_the_draw_is_random_and_has_the_share_asked_for(client):
    station = client.station
    from cflow_ad.station.pictures import is_drawn

    drawn = [is_drawn(0.25) for _ in range(4000)]
    assert 800 < sum(drawn) < 1200
    assert not any(is_drawn(0.0) for _ in range(100))
    assert all(is_drawn(1.0) for _ in range(100))
    assert station.config.audit_share == 0


def test_a_preview_lists_what_would_change_and_changes_nothing(client, pictures, odd):
    scores = {}
    for data in (*pictures[:4], odd):
        answer = client.inspect(data)
        scores[answer["id"]] = answer["score"]
    low, high = sorted(scores.values())[0] - 0.1, max(scores.values()) + 0.1
    preview = client.get("/v1/models/part/thresholds/preview", params={"value": high}).json()
    assert preview["to_good"] == sum(s > preview["current"] for s in scores.values())
    assert preview["to_anomalous"] == 0
    preview = client.get("/v1/models/part/thresholds/preview", params={"value": low}).json()
    assert preview["to_anomalous"] == sum(s <= preview["current"] for s in scores.values())
    listed = [item["score"] for item in preview["items"]]
    assert listed == sorted(listed, key=lambda s: abs(s - low))
    assert client.get("/v1/models/part").json()["threshold"] == preview["current"]
    changed = client.post("/v1/models/part/thresholds", json={"value": low, "reason": "strict"})
    assert changed.json()["threshold_row"]["reason"] == "strict"
    assert client.inspect(pictures[0])["is_anomalous"]
    assert client.post("/v1/models/part/thresholds", json={"value": low}).status_code == 422
    rows = client.get("/v1/models/part/thresholds").json()["items"]
    assert [row["reason"] for row in rows] == ["strict", "as calibrated"]


def test_pictures_go_when_their_time_is_over_and_the_record_stays(config, pictures, odd):
    policy = Retention(days=0.0, anomalous_days=1.0, free_gigabytes=0.0)
    with Client(dataclasses.replace(config, retention=policy)) as client:
        client.post("/v1/models/part/thresholds", json={"value": 1e6, "reason": "all good"})
        good = client.inspect(pictures[0])
        client.post("/v1/models/part/thresholds", json={"value": -1.0, "reason": "all bad"})
        bad = client.inspect(odd)
        assert client.station.pictures.clean(client.station.database) == 1
        assert client.get(f"/v1/inspections/{good['id']}/picture").status_code == 404
        assert client.get(f"/v1/inspections/{bad['id']}/picture").status_code == 200
        assert client.get(f"/v1/inspections/{good['id']}").json()["has_picture"] is False
        assert len(list(config.data.glob("pictures/????-*/*"))) == 1


def test_a_station_that_has_kept_no_picture_yet_has_none_to_delete(client):
    assert client.station.pictures.clean(client.station.database) == 0


def test_the_oldest_pictures_go_first_when_there_are_too_many_bytes(config, pictures):
    size = sum(len(data) for data in pictures[2:4]) / 1e9
    policy = Retention(gigabytes=size + 1e-9, free_gigabytes=0.0)
    with Client(dataclasses.replace(config, retention=policy)) as client:
        for data in pictures[:4]:
            client.inspect(data)
        assert client.station.pictures.clean(client.station.database) == 2
        kept = client.get("/v1/inspections?with_picture=true").json()["items"]
        assert [row["seq"] for row in kept] == [4, 3]


@pytest.mark.parametrize(("keep", "kept"), [("anomalous", [False, True]), ("none", [False, False])])
def test_the_policy_says_which_pictures_are_kept(config, pictures, odd, keep, kept):
    policy = Retention(keep=keep, near=0.0)
    with Client(dataclasses.replace(config, retention=policy)) as client:
        scores = [client.inspect(data)["score"] for data in (pictures[0], odd)]
        value = float(np.mean(scores))
        client.post("/v1/models/part/thresholds", json={"value": value, "reason": "between"})
        answers = [client.inspect(data) for data in (pictures[0], odd)]
        assert [answer["has_picture"] for answer in answers] == kept
        assert len([each for each in config.data.glob("pictures/**/*") if each.is_file()]) == sum(
            kept
        )


def test_a_back_up_harms_no_other_of_the_same_second(client, config, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "2026-05-04T060000Z")
    copy, into, written = backup._copy_sqlite, tmp_path / "backups", []

    def back_up_meanwhile(source, target):
        monkeypatch.setattr(backup, "_copy_sqlite", copy)
        written.append(back_up(config, into))
        copy(source, target)

    monkeypatch.setattr(backup, "_copy_sqlite", back_up_meanwhile)
    with pytest.raises(StationError):
        back_up(config, into)
    assert list(into.iterdir()) == written
    assert records("verify", "--data", written[0]).exit_code == 0


def test_a_back_up_of_a_running_station_is_a_station(config, pictures, tmp_path):
    with Client(config) as client:
        client.inspect(pictures[0])
        done = records("backup", tmp_path / "backups", "--data", config.data, "--pictures")
        assert done.exit_code == 0, done.output
        client.inspect(pictures[1])
    (folder,) = (tmp_path / "backups").iterdir()
    assert records("verify", "--data", folder).exit_code == 0
    with Client(dataclasses.replace(config, data=folder, models=())) as client:
        assert [row["seq"] for row in client.get("/v1/inspections").json()["items"]] == [1]
