"""Generated requests for the whole description: no server error."""

from __future__ import annotations

import contextlib
import dataclasses

import hypothesis
import pytest

from cflow_ad.station.config import Limits
from tests.station.conftest import Client

schemathesis = pytest.importorskip("schemathesis")
GenerationMode = pytest.importorskip("schemathesis.generation").GenerationMode

ENDLESS = "/v1/stream"


@pytest.fixture(scope="module")
def station(model_file, pictures, tmp_path_factory):
    from cflow_ad.station.config import StationConfig

    folder = tmp_path_factory.mktemp("openapi")
    limits = dataclasses.replace(Limits(), upload_seconds=5.0)
    config = StationConfig(data=folder / "data", models=(model_file,), limits=limits)
    with Client(config) as client:
        client.station.auth.first_password()
        for data in pictures[:3]:
            client.inspect(data)
        yield client


def try_operation(station, operation, mode):
    """Send some generated requests; returns how many."""
    headers = {"Authorization": f"Bearer {station.key}", "Host": "127.0.0.1"}
    sent = []

    @hypothesis.settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        given = case.as_transport_kwargs(base_url="http://127.0.0.1", headers=headers)
        given.pop("cookies", None)
        body = given.pop("data", None)
        given["content" if isinstance(body, bytes | str) else "data"] = body
        given = {name: value for name, value in given.items() if value is not None}
        answer = station.request(**given)
        sent.append(given)
        later = answer.status_code == 503 and "retry-after" in answer.headers
        assert answer.status_code < 500 or later, (given, answer.text)
        if answer.status_code >= 400:
            assert "detail" in answer.json()

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        send()
    return len(sent)


def test_no_request_makes_a_server_error(station):
    """Right and wrong values for each operation; the stream, which has no end, is left out."""
    described = schemathesis.openapi.from_dict(station.get("/openapi.json").json())
    operations = [found.ok() for found in described.get_all_operations()]
    asked = [
        sum(try_operation(station, operation, mode) for mode in GenerationMode)
        for operation in operations
        if operation.path != ENDLESS
    ]
    assert sum(count > 0 for count in asked) > 40


def test_the_description_has_examples_and_names_every_error(station):
    described = station.get("/openapi.json").json()
    operations = [o for path in described["paths"].values() for o in path.values()]
    assert len(operations) > 40
    assert all(operation["summary"] and operation["tags"] for operation in operations)
    inspect = described["paths"]["/v1/models/{model}/inspect"]["post"]
    example = inspect["responses"]["200"]["content"]["application/json"]["example"]
    answer = station.get("/v1/inspections?limit=1").json()["items"][0]
    assert set(answer) == set(example), "the example has the fields of an answer"
    assert {"401", "413", "422", "429", "503"} <= set(inspect["responses"])
