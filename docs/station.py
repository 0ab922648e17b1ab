"""Make `station.webp`, the picture of the inspection station in the README.

    make demo
    python docs/station.py

It serves the demo's model, inspects some of the demo's carpet, and takes a picture of the page in
Chromium. Needs the packages `playwright` and `cflow-ad[station]`, and a Chromium that is installed.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from cflow_ad.station.app import create_app
from cflow_ad.station.config import StationConfig

PARTS = 40
SIZE = {"width": 1280, "height": 860}
PASSWORD = "only for the picture"


def main(demo: Path) -> None:
    """Take the picture of a station with the model of a demo folder."""
    model = demo / "carpet.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        config = StationConfig(data=Path(folder), models=(model,), port=0, name="Line 3")
        app = create_app(config)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.1)
        try:
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            station = app.state.station
            _, key = station.auth.add_key("camera 1", "operator")
            station.auth.add_user("eve", "engineer", PASSWORD)
            inspect(url, key, station.registry.names()[0], demo / "carpet" / "test")
            take_picture(url, Path(__file__).with_name("station.webp"))
        finally:
            server.should_exit = True
            thread.join()


def inspect(url: str, key: str, model: str, test: Path) -> None:
    """Inspect good parts, some with a defect between them, and a stain at the end."""
    good = sorted((test / "good").iterdir())
    bad = sorted(path for path in test.glob("*/*.png") if path.parent.name != "good")
    chance = random.Random(7)
    line = [chance.choice(bad if n % 9 == 4 else good) for n in range(PARTS)]
    line.append(sorted((test / "color").iterdir())[0])
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120
    ) as client:
        for path in line:
            answer = client.post(
                f"/v1/models/{model}/inspect?source=camera 1", content=path.read_bytes()
            )
            answer.raise_for_status()


def take_picture(url: str, target: Path) -> None:
    """Log in and take a picture of what is inspected last."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(base_url=url, viewport=SIZE, locale="en-GB")
        page.goto("/login")
        page.fill("#user", "eve")
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector('.viewer[data-state="shown"]')
        time.sleep(5)  # until the heat map and the thumbnails are there
        shot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    shot.convert("RGB").save(target, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
