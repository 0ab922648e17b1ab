"""A station in this process, one in a process of its own, and pictures to send."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cflow_ad.station.app import create_app
from cflow_ad.station.config import StationConfig

ADMIN = "the first password"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def pictures(images):
    """Good pictures as PNG files."""
    return [png(np.asarray(image, np.uint8)) for image in images]


@pytest.fixture(scope="session")
def odd(images):
    """A picture with a defect, as a PNG file."""
    pixels = np.array(images[0], np.uint8)
    pixels[30:60, 30:60] = np.random.default_rng(0).integers(0, 255, (30, 30, 3))
    return png(pixels)


@pytest.fixture(scope="session")
def model_file(toy_detector, tmp_path_factory):
    """A model called `part`."""
    path = tmp_path_factory.mktemp("model") / "part.safetensors"
    toy_detector.save(path, bundle=True)
    return path


class Client(TestClient):
    """Talks to a station in this process, as an admin with a key unless told otherwise."""

    def __init__(self, config, role="admin"):
        self.application = create_app(config)
        self.station = self.application.state.station
        super().__init__(self.application, base_url="http://127.0.0.1", client=("127.0.0.1", 50000))
        self.key = self.station.auth.add_key("tests", role)[1]
        self.headers["Authorization"] = f"Bearer {self.key}"

    def inspect(self, data, **query):
        answer = self.post(
            "/v1/models/part/inspect",
            content=data,
            params=query,
            headers={"content-type": "image/png"},
        )
        answer.raise_for_status()
        return answer.json()


@pytest.fixture
def config(model_file, tmp_path):
    return StationConfig(data=tmp_path / "data", models=(model_file,), workers=2, audit_share=0.0)


@pytest.fixture
def client(config):
    with Client(config) as client:
        yield client


class Served:
    """`cflow-ad serve` in a process of its own.

    Args:
        arguments: of the command, but for the port and the key file.
        folder: where the key file and the log go.
    """

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self.folder = folder
        self.arguments = [str(each) for each in arguments]
        self.log = folder / "log.txt"

    def start(self, wait: bool = True, port: int = 0) -> Served:
        folder = self.folder
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cflow_ad", "serve", *self.arguments),
                    *("--port", str(port), "--key-file", str(folder / "key")),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "2"},
            )
        if wait:
            self.wait()
        return self

    def wait(self, seconds: float = 300.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            line = next((x for x in self.log.read_text().splitlines() if ": ready" in x), None)
            if line is not None:
                self.url = line.split(": ready")[0]
                return
            time.sleep(0.05)
        raise AssertionError(f"not ready in {seconds} s: {self.log.read_text()}")

    def client(self, **options) -> httpx.Client:
        key = (self.folder / "key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture
def serve(tmp_path):
    """Start stations; all are stopped at the end."""
    started = []

    def start(*arguments, folder=None, wait=True, port=0):
        served = Served(folder or tmp_path, *arguments)
        started.append(served)
        return served.start(wait, port)

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
