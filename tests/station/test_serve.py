"""The commands: serve, doctor; and the client of one page."""

from __future__ import annotations

import socket
import stat

import pytest
from typer.testing import CliRunner

from cflow_ad.cli import app
from cflow_ad.errors import StationError
from cflow_ad.station.client import Client as PageClient
from cflow_ad.station.config import StationConfig
from tests.station.conftest import Client as Inside


def test_from_one_command_to_a_verdict(model_file, serve, pictures, tmp_path):
    served = serve(model_file, "--data", tmp_path / "data")
    said = served.log.read_text()
    assert "user admin, password " in said
    key = tmp_path / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "part.png").write_bytes(pictures[0])
    client = PageClient(served.url, key)
    answer = client.inspect("part", tmp_path / "part.png", source="test")
    assert list(client.inspections(limit=1)) == [client_row(client, answer)]
    assert client.picture(answer["id"]) == pictures[0]
    assert client.mark([answer["id"]], "good")["items"][0]["mark"]["label"] == "good"
    with pytest.raises(StationError, match="no model nothing"):
        client.inspect("nothing", pictures[0])
    kept = key.read_text()
    assert served.stop() in (0, -15)
    with Inside(StationConfig(data=tmp_path / "data")) as again:
        again.station.auth.key_in_file(key)
        assert key.read_text() == kept, "a valid key stays"
        assert again.station.auth.first_password() is None, "it is told once"
        assert len(again.get("/v1/inspections").json()["items"]) == 1
    with pytest.raises(StationError, match="no answer"):
        PageClient(served.url, key, patience=0.1).inspect("part", pictures[0])


def client_row(client, answer):
    (row,) = client.inspections()
    assert row["id"] == answer["id"]
    return row


def test_a_taken_port_and_a_missing_model_are_errors_of_one_line(model_file, tmp_path):
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(app, ["serve", str(model_file), "--port", port, "--data", str(tmp_path / "a")])
        assert done.exit_code == 2
        assert f"127.0.0.1:{port}: the station cannot listen there" in done.output
    done = run(app, ["serve", "--data", str(tmp_path / "b")])
    assert done.exit_code == 2
    assert "there is no model" in done.output
    done = run(app, ["serve", str(tmp_path / "no.safetensors"), "--data", str(tmp_path / "c")])
    assert done.exit_code == 2
    assert "no.safetensors" in done.output


def test_doctor_names_what_is_there_and_what_is_not(model_file, tmp_path):
    done = CliRunner().invoke(app, ["doctor", str(model_file), "--data", str(tmp_path)])
    assert done.exit_code in (0, 1), done.output  # 1 where the disk is nearly full
    for said in ("cflow-ad", "station", "train", "cores", str(tmp_path)):
        assert said in done.output
    garbage = tmp_path / "x.safetensors"
    garbage.write_bytes(b"x")
    with Inside(StationConfig(data=tmp_path / "data", models=(model_file,))):
        arguments = ["doctor", str(garbage), "--data", str(tmp_path / "data")]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "0 inspections by part" in done.output
    assert "x.safetensors" in done.output
