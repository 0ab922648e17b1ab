"""Generated requests for the whole description: no server error."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest

from cflow_ad.station.config import Limits
from tests.station.conftest import Client

schemathesis = pytest.importorskip("schemathesis")

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


@pytest.fixture
def described(station):
    return schemathesis.openapi.from_asgi("/openapi.json", station.application)


schema = schemathesis.pytest.from_fixture("described")


@schema.exclude(path=ENDLESS).parametrize()
@hypothesis.settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
def test_no_request_makes_a_server_error(case, station):
    headers = {"Authorization": f"Bearer {station.key}", "Host": "127.0.0.1"}
    answer = case.call(headers=headers)
    ready = answer.status_code == 503 and "retry-after" in answer.headers
    assert answer.status_code < 500 or ready, answer.text
    if answer.status_code >= 400:
        assert "detail" in answer.json()


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
