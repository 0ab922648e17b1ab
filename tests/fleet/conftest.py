"""An S3 stand-in, and products to train."""

from __future__ import annotations

import http.client
import itertools
import logging

import pytest

from cflow_ad.data.carpet import write_carpet
from tests.fleet.servers import refusing_proxy

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3():
    """Address of a server that speaks S3."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def refused():
    """The requests that the store of `bucket` has refused."""
    return []


@pytest.fixture
def bucket(s3, refused, monkeypatch):
    """URL of an empty bucket, whose store refuses one request in twenty."""
    pytest.importorskip("obstore")
    name = f"bucket-{next(_NUMBERS)}"
    made = http.client.HTTPConnection(*s3)
    made.request("PUT", f"/{name}")
    assert made.getresponse().status == 200
    made.close()
    with refusing_proxy(s3, refused) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield f"s3://{name}/plant"


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    """A place for a store: a folder, and a bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return request.getfixturevalue("bucket")


TINY = {
    "size": "64x64",
    "strides": (8, 16),
    "steps": 3,
    "batch_size": 64,
    "backbone": "test_efficientnet",
    "weights": "random",
}
"""Settings with which a product is trained in a moment."""


@pytest.fixture(scope="session")
def plant(tmp_path_factory):
    """A manifest of three products of eight images, 64 x 64; not to be changed."""
    root = tmp_path_factory.mktemp("plant")
    lines = ["product,good,steps"]
    for number in range(3):
        write_carpet(
            root / f"p{number}",
            train=8,
            good=2,
            per_defect=1 if number == 0 else 0,
            size=64,
            seed=number,
        )
        lines.append(f"part {number},p{number}/train/good,{3 + number}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root / "manifest.csv"
