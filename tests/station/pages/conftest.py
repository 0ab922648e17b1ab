"""A station with parts, in a thread of the test, and one browser for all tests here."""

from __future__ import annotations

import io
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest
from PIL import Image

PASSWORD = "correct horse battery"


@dataclass(eq=False)
class Site:
    """A running station."""

    url: str
    station: Any
    folder: Path
    """Of carpet images: `good` and `bad`."""

    def inspect(self, image: np.ndarray, source: str = "line") -> dict[str, Any]:
        """Inspect as a machine on the line does."""
        answer = self.machine.post(
            f"/v1/models/carpet/inspect?source={source}",
            content=to_png(image),
            headers={"Content-Type": "image/png"},
        )
        answer.raise_for_status()
        return answer.json()

    def __post_init__(self) -> None:
        _, key = self.station.auth.add_key("line", "operator")
        self.machine = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )


def to_png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def wait_for_text(page: Any, selector: str, text: str) -> None:
    page.locator(selector).filter(has_text=text).first.wait_for(state="attached")


def wait_until_ready(page: Any) -> None:
    """Until the page's scripts listen, which may be after its load event."""
    page.wait_for_selector("html[data-ready]", state="attached")


def wait_for_part(page: Any) -> None:
    """Until the viewer shows a picture."""
    page.wait_for_selector('.viewer[data-state="shown"]')


def damage(image: np.ndarray) -> np.ndarray:
    """A part with a hole."""
    bad = image.copy()
    bad[30:60, 25:65] = (10, 200, 10)
    return bad


@pytest.fixture(scope="module")
def site(tmp_path_factory, toy_detector, images) -> Iterator[Site]:
    """A station of a model "carpet" that has inspected 40 parts, every fifth with a hole."""
    pytest.importorskip("fastapi")
    import uvicorn

    from cflow_ad.station.app import create_app
    from cflow_ad.station.config import StationConfig

    folder = tmp_path_factory.mktemp("station")
    model = folder / "carpet.safetensors"
    toy_detector.save(model)
    for kind, change in (("good", lambda image: image), ("bad", damage)):
        (folder / "carpet" / kind).mkdir(parents=True)
        for index, image in enumerate(images):
            (folder / "carpet" / kind / f"{index}.png").write_bytes(to_png(change(image)))
    config = StationConfig(
        data=folder / "data",
        models=(model,),
        port=0,
        workers=1,
        audit_share=0.3,
        roots=(folder / "carpet",),
        name="Line 3",
    )
    app = create_app(config)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 180
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    station = app.state.station
    for user, role in (("ada", "admin"), ("eve", "engineer"), ("otto", "operator")):
        station.auth.add_user(user, role, PASSWORD)
    found = Site(f"http://127.0.0.1:{port}", station, folder / "carpet")
    fill(found, images, toy_detector)
    yield found
    found.machine.close()
    server.should_exit = True
    thread.join(30)


def fill(site: Site, images: list[np.ndarray], detector: Any) -> None:
    """Put the threshold between good and bad parts, and inspect some."""
    rng = np.random.default_rng(0)
    good = [detector.predict(image).score for image in images]
    bad = [detector.predict(damage(image)).score for image in images]
    threshold = (max(good) + min(bad)) / 2
    site.station.registry.set_threshold("carpet", threshold, "test", "between the two")
    from cflow_ad.station import inspector

    # By chance hardly an anomalous part might be left in its queue.
    draws = (number % 3 == 0 for number in itertools.count())
    with mock.patch.object(inspector, "is_drawn", side_effect=draws):
        for n in range(40):
            image = np.clip(images[n % len(images)] + rng.normal(0, 2, (1, 1, 3)), 0, 255)
            image = image.astype(np.uint8)
            answer = site.inspect(damage(image) if n % 5 == 4 else image)
            assert answer["is_anomalous"] == (n % 5 == 4)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium without a window; skips where there is none.

    It ends with this folder's tests: an event loop runs in this thread as long as Playwright does.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium")
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    off = ("background-networking", "component-update", "sync", "quic", "gpu", "dev-shm-usage")
    running = playwright.chromium.launch(
        executable_path=path,
        timeout=120_000,
        args=[
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{each}" for each in off),
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
        ],
    )
    yield running
    running.close()
    playwright.stop()


@pytest.fixture(scope="module")
def sessions(site) -> dict[str, list[dict[str, str]]]:
    """The cookies of each user."""
    found = {}
    for user in ("ada", "eve", "otto"):
        given = {"user": user, "password": PASSWORD}
        answer = httpx.post(f"{site.url}/v1/session", json=given, timeout=60)
        answer.raise_for_status()
        (cookie,) = answer.cookies.items()
        found[user] = [{"name": cookie[0], "value": cookie[1], "url": site.url}]
    return found


@pytest.fixture
def open_view(site, browser, sessions):
    """Open a view as a user; what goes wrong in the page fails the test."""
    contexts, problems = [], []

    def note(message: Any, expected: list[str]) -> None:
        """Chromium tells of every answer that is an error, and of every breach of the policy."""
        where = message.location["url"]
        if message.type == "error" and not any(part in where for part in expected):
            problems.append(f"{message.text} ({where})")

    def open_view(path: str, user: str = "eve", **options: Any) -> Any:
        options = {"locale": "en-GB", "viewport": {"width": 1440, "height": 900}} | options
        context = browser.new_context(base_url=site.url, **options)
        contexts.append(context)
        if user:
            context.add_cookies(sessions[user])
        page = context.new_page()
        page.set_default_timeout(60_000)  # other tests run beside
        expected = []  # addresses whose refusal is part of the test
        page.expect_refusal = expected.append
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: note(message, expected))
        page.goto(path)
        wait_until_ready(page)
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert not problems
