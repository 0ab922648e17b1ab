"""Make the pictures of the manual's pages, from what the commands of `first-data-set.md` leave.

    python docs/pictures.py FOLDER

FOLDER is where the commands ran. The picture of the report needs the package `playwright` and a
Chromium that is installed.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
GAP = 8
SHOWN = ("color/003", "cut/003", "hole/003", "thread/003")
SIDES = (48, 96, 384)
GOOD, DEFECTIVE = "#2a9d8f", "#e76f51"


def main(folder: Path) -> None:
    """Make all pictures."""
    test = folder / "cloth" / "test"
    save(join([Image.open(test / "good" / f"{n:03}.png") for n in range(4)]), "good")
    save(join([find_overlay(folder, name) for name in SHOWN]), "overlays")
    cut = Image.open(test / f"{SHOWN[1]}.png")
    save(join([cut.resize((side, side)).resize((384, 384), 0) for side in SIDES]), "size")
    save(draw_scores(folder / "evaluation"), "threshold")
    save(photograph(folder / "evaluation" / "report.html"), "report")


def save(image: Image.Image, name: str) -> None:
    """Save a picture beside this file."""
    image.convert("RGB").save(DOCS / f"{name}.webp", "WEBP", quality=80, method=6)


def join(images: list[Image.Image]) -> Image.Image:
    """Put images of one size side by side."""
    width, height = images[0].size
    joined = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for number, image in enumerate(images):
        joined.paste(image.convert("RGB"), (number * (width + GAP), 0))
    return joined


def find_overlay(folder: Path, name: str) -> Image.Image:
    """Open what `predict --overlays` wrote for an image."""
    return Image.open(folder / "out" / "overlays" / f"{name}.png")


def draw_scores(evaluation: Path) -> Image.Image:
    """Draw how often good and defective images have each score, and the threshold."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    with (evaluation / "scores.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores[row["label"] == "good"].append(float(row["score"]))
    threshold = json.loads((evaluation / "metrics.json").read_text("utf-8"))["threshold"]
    figure, axes = plt.subplots(figsize=(8, 2.8), dpi=110, layout="constrained")
    every = [score for of in scores.values() for score in of]
    low, high = min(every) * 0.9, max(every) * 1.1
    bins = [low * (high / low) ** (n / 50) for n in range(51)]
    axes.set_xscale("log")
    for is_good, colour, label in ((True, GOOD, "good"), (False, DEFECTIVE, "defective")):
        axes.hist(scores[is_good], bins, color=colour, label=f"{label}, {len(scores[is_good])}")
    axes.axvline(threshold, color="#264653", linestyle="--", label=f"threshold, {threshold:.2f}")
    axes.set(xlabel="score, on a logarithmic scale", ylabel="images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def photograph(page: Path) -> Image.Image:
    """Take a picture of the top of a page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        shown = browser.new_page(viewport={"width": 1000, "height": 900})
        shown.goto(page.resolve().as_uri())
        shot = Image.open(io.BytesIO(shown.screenshot()))
        browser.close()
    return shot


if __name__ == "__main__":
    main(Path(sys.argv[1]))
