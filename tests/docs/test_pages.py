"""Every command and every piece of Python of the manual runs, and prints what its page shows."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.carpet import write_carpet
from tests.docs.blocks import PAGES, read_blocks
from tests.docs.running import cut_down, reading

SIZE = 96
MANIFEST = """product,good,preset,steps
M8 screw,plant/screw,,
washer,plant/washer,fast,300
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the pages take as given; not to be changed."""
    desk = tmp_path_factory.mktemp("desk")
    write_carpet(desk / "parts", train=12, good=4, per_defect=1, size=SIZE)
    train, test = desk / "parts" / "train" / "good", desk / "parts" / "test"
    shutil.copytree(train, desk / "parts" / "good")
    for seed, name in enumerate(("tuesday", "lot7"), start=1):
        write_carpet(desk / name, train=0, good=8, per_defect=0, size=SIZE, seed=seed)
        (desk / name / "test" / "good").rename(desk / name / "good")
    shutil.copytree(test / "hole", desk / "defects")
    shutil.copytree(test, desk / "today")
    for name in ("part.png", "a.png", "b.png", "today/part.png"):
        shutil.copy(test / "hole" / "000.png", desk / name)
    (desk / "piezas").mkdir()
    shutil.copytree(train, desk / "piezas" / "bueno")
    shutil.copytree(test / "hole", desk / "piezas" / "malo")
    for name in ("carpet", "bottle", "mvtec/bottle", "marked", "archive"):
        shutil.copytree(desk / "parts", desk / name)
    for name in ("screw", "washer"):
        shutil.copytree(train, desk / "plant" / name)
    (desk / "manifest.csv").write_text(MANIFEST)
    mark_regions(desk, train, test / "good")
    list_images(desk / "parts", train, test / "hole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        Detector.fit(desk / "parts", cut_down(Settings()), device="cpu").save(
            desk / "part.safetensors"
        )
    return desk


def mark_regions(desk: Path, *folders: Path) -> None:
    """A region of interest for all images, as a mask and as polygons, and one for each."""
    inside = np.zeros((SIZE, SIZE), np.uint8)
    inside[8:-8, 8:-8] = 255
    Image.fromarray(inside).save(desk / "region.png")
    square = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    (desk / "region.json").write_text(f"[{json.dumps(square)}]\n")
    (desk / "regions").mkdir()
    for path in (path for folder in folders for path in folder.iterdir()):
        Image.fromarray(inside).save(desk / "regions" / path.name)


def list_images(parts: Path, good: Path, bad: Path) -> None:
    """Manifests of Lookout for Vision, and a list in the form of COCO."""
    for name, folders in (("train", {good: "normal"}), ("test", {good: "normal", bad: "anomaly"})):
        lines = [
            {
                "source-ref": f"s3://bucket/{path.relative_to(parts).as_posix()}",
                "anomaly-label": int(label != "normal"),
                "anomaly-label-metadata": {
                    "class-name": label,
                    "type": "groundtruth/image-classification",
                },
            }
            for folder, label in folders.items()
            for path in sorted(folder.iterdir())
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (parts / f"{name}.manifest").write_text(text)
    names = [path.relative_to(parts).as_posix() for path in sorted(good.iterdir())]
    images = [
        {"id": number, "file_name": name, "width": SIZE, "height": SIZE}
        for number, name in enumerate(names)
    ]
    coco = {"images": images, "annotations": [], "categories": []}
    (parts / "annotations").mkdir()
    (parts / "annotations" / "instances_train.json").write_text(json.dumps(coco))


def link_image(source, target):
    """Copy a file; of an image, which no page changes, only its name."""
    if source.endswith(".png"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_to_be_run_runs(page, desk, tmp_path, monkeypatch):
    blocks = [block for block in read_blocks(page) if block.language in ("console", "python")]
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True, copy_function=link_image)
    frame = np.asarray(Image.open(tmp_path / "part.png"))
    names = {
        "detector": Detector.load(tmp_path / "part.safetensors"),
        "array": frame,
        "frame": frame[..., ::-1],
        "tensor": frame.transpose(2, 0, 1) / np.float32(255),
    }
    with reading(tmp_path, monkeypatch, names) as reader:
        for block in blocks:
            if block.reason is None:
                reader.run(block)
