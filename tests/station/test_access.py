"""Who may do what, and what a request may be."""

from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request

from cflow_ad.station.api import system
from cflow_ad.station.config import Limits
from cflow_ad.station.failures import FREE_TRIES, Failures
from tests.station.conftest import Client

OPEN = {"/health/live", "/health/ready", "/metrics", "/openapi.json"}


@pytest.fixture
def password(client):
    return client.station.auth.first_password()


def log_in(client, password, user="admin"):
    return client.post(
        "/v1/session",
        json={"user": user, "password": password},
        headers={"Authorization": ""},
    )


def test_nothing_but_health_is_told_to_nobody_known(client):
    """Every route of the description, whatever is added later."""
    described = client.get("/openapi.json").json()["paths"]
    anybody = {"Authorization": "Bearer nonsense"}
    for path, methods in described.items():
        for method in methods:
            answer = client.request(method, path, headers=anybody)
            if path in OPEN:
                assert answer.status_code == 200
            elif (path, method) == ("/v1/session", "post"):
                assert answer.status_code == 422
            else:
                assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(("role", "allowed"), [("operator", 0), ("engineer", 1), ("admin", 2)])
def test_each_role_may_do_what_those_below_it_may(client, role, allowed, pictures):
    headers = {"Authorization": f"Bearer {client.station.auth.add_key('k', role)[1]}"}
    asked = [
        client.post(
            "/v1/models/part/thresholds", json={"value": 2, "reason": "why"}, headers=headers
        ),
        client.get("/v1/users", headers=headers),
    ]
    assert client.get("/v1/inspections", headers=headers).status_code == 200
    assert [answer.status_code == 200 for answer in asked] == [allowed > 0, allowed > 1]
    assert all(answer.status_code in (200, 403) for answer in asked)


def test_a_browser_logs_in_and_its_changes_need_the_token(client, password):
    answer = log_in(client, password)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    del client.headers["Authorization"]
    assert client.get("/v1/session").json()["role"] == "admin"
    change = {"value": 2, "reason": "why"}
    assert client.post("/v1/models/part/thresholds", json=change).status_code == 403
    token = {"X-CSRF-Token": answer.json()["csrf"]}
    assert client.post("/v1/models/part/thresholds", json=change, headers=token).status_code == 200
    assert client.delete("/v1/session", headers=token).status_code == 204
    client.cookies.clear()
    client.cookies.set("cflow_session", cookie.split("=", 1)[1].split(";")[0])
    assert client.get("/v1/session").status_code == 401, "the old cookie is worth nothing"


def test_wrong_passwords_make_the_next_try_wait(client, password):
    answers = [log_in(client, "wrong").status_code for _ in range(FREE_TRIES + 1)]
    assert answers == [401] * FREE_TRIES + [429]
    assert log_in(client, password).status_code == 429


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(client, password):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: log_in(client, f"guess number {n}"), range(20)))
    assert sum(answer.status_code == 401 for answer in answers) <= FREE_TRIES + 1


def test_news_end_with_the_session(client, password, monkeypatch):
    log_in(client, password)
    monkeypatch.setattr(system, "_ALIVE_EVERY", 0.05)
    cookie = client.cookies["cflow_session"]
    scope = {"type": "http", "app": client.application, "headers": [
        (b"cookie", f"cflow_session={cookie}".encode())
    ]}  # fmt: skip
    request = Request(scope)
    user = client.station.auth.identify(request)

    async def read():
        news = system.stream(client.station, request, user)
        for _ in range(3):
            await anext(news)
        client.station.auth.log_out(cookie)
        return [item async for item in news]

    assert len(asyncio.run(asyncio.wait_for(read(), 30))) < 3


def test_waiting_times_grow_and_end():
    now = [0.0]
    failures = Failures(clock=lambda: now[0])
    waits = []
    for _ in range(20):
        failures.note("a")
        waits.append(failures.wait("a", "b"))
    assert waits[: FREE_TRIES - 1] == [0.0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 :] == sorted(waits[FREE_TRIES - 1 :])
    assert waits[-1] == 900
    now[0] = 901
    assert failures.wait("a") == 0
    failures.forget("a")
    failures.note("a")
    assert failures.wait("a") == 0


def test_passwords_and_keys_are_not_stored(client, password, config):
    key = client.post("/v1/keys", json={"name": "plc", "role": "operator"}).json()
    client.station.database.close()
    stored = b"".join(path.read_bytes() for path in config.data.glob("station.db*"))
    assert password.encode() not in stored
    assert key["key"].encode() not in stored
    assert b"$argon2id$" in stored


def test_a_revoked_key_and_a_removed_user_may_nothing(client, password):
    made = client.post("/v1/keys", json={"name": "plc", "role": "operator"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert client.get("/v1/models", headers=headers).status_code == 401
    user = {"name": "eva", "role": "engineer", "password": "long enough"}
    assert client.post("/v1/users", json=user).status_code == 201
    assert client.post("/v1/users", json=user).status_code == 409
    assert client.delete("/v1/users/admin").status_code == 409, "the last admin stays"
    log_in(client, "long enough", "eva")
    assert client.delete("/v1/users/eva").status_code == 204
    assert client.get("/v1/session", headers={"Authorization": ""}).status_code == 401


def test_answers_carry_a_strict_policy(client):
    for path in ("/health/live", "/v1/models", "/v1/nowhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert client.get("/docs").status_code == 404


def test_a_page_of_elsewhere_that_points_here_is_refused(client):
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_name_of_the_station_is_the_same_in_capitals(config):
    with Client(dataclasses.replace(config, hosts=("Line-3.plant",))) as client:
        for host in ("line-3.plant", "LINE-3.plant:8000"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_what_is_too_large_is_refused(config, pictures):
    small = dataclasses.replace(config, limits=Limits(upload_bytes=2_000, pixels=100))
    with Client(small) as client:
        answer = client.post("/v1/models/part/inspect", content=b"x" * 2_001)
        assert answer.status_code == 413
        parts = (b"x" * 500 for _ in range(10))  # without a length
        assert client.post("/v1/models/part/inspect", content=parts).status_code == 413
    small = dataclasses.replace(config, limits=Limits(pixels=100))
    with Client(small) as client:
        answer = client.post("/v1/models/part/inspect", content=pictures[0])
        assert answer.status_code == 422
        assert "96 x 96 pixels" in answer.json()["detail"]


def test_more_than_may_wait_are_asked_to_come_again(config, pictures):
    with Client(dataclasses.replace(config, limits=Limits(queue=1))) as client:
        detector = client.station.registry.detector(1)
        original, inside = detector.score_canvases, []

        def ask_meanwhile(canvases):
            if not inside:
                inside.append(True)
                inside.append(client.post("/v1/models/part/inspect", content=pictures[1]))
            return original(canvases)

        detector.score_canvases = ask_meanwhile
        assert client.inspect(pictures[0])["seq"] == 1
        assert inside[1].status_code == 429
        assert int(inside[1].headers["retry-after"]) >= 1
        assert client.inspect(pictures[1])["seq"] == 2


def test_other_machines_cannot_reach_a_station_without_keys(model_file, tmp_path):
    from cflow_ad.errors import StationError
    from cflow_ad.station.config import StationConfig
    from cflow_ad.station.serving import open_server

    config = StationConfig(data=tmp_path / "data", models=(model_file,), host="0.0.0.0")
    with pytest.raises(StationError, match="no API key"):
        open_server(config, lambda line: None)
