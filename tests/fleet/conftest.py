"""An S3 stand-in, products to train, and workers that are this process."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import logging

import pytest

from cflow_ad.data.carpet import write_carpet
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.manifest import read_manifest
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.pool import attempt_task
from cflow_ad.fleet.training import Trainer
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


OPTIONS = [
    part
    for name, value in TINY.items()
    for part in ("--set", f"{name}={','.join(map(str, value)) if name == 'strides' else value}")
]
"""`TINY`, for the command line."""


def models(store):
    """The SHA-256 of each product's model."""
    return {version.product: version.sha256 for version in ModelStore(store).versions()}


@pytest.fixture(scope="session")
def alone(plant, tmp_path_factory):
    """A store of the products of `plant`, each trained alone in this process on one core."""
    store = tmp_path_factory.mktemp("alone")
    train = Trainer(str(store), threads=1, device="cpu")
    for product in read_manifest(plant, changes=TINY):
        assert train(product).is_new
    return store


class PoolHere:
    """One worker that is this process."""

    size = 1
    threads = 1

    def __init__(self, build):
        self.work = build()

    def submit(self, slot, task):
        self.reply = attempt_task(self.work, task)

    def wait(self):
        return 0, self.reply


@pytest.fixture
def here(monkeypatch):
    """Workers are this process."""

    @contextlib.contextmanager
    def open_here(self, build):
        yield PoolHere(build(1))

    monkeypatch.setattr(Engine, "open", open_here)
