"""Train: a folder under an allowed root, progress over a reload, comparison, promotion, way back.

The training process is a short one that reports and gives a model as the real one does.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cflow_ad.station.records import Filter
from tests.station.pages.conftest import wait_for_text

CHILD = """
import json, shutil, sys, time
from pathlib import Path
folder, model, scores = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
job = json.loads((folder / "job.json").read_text())
def write(name, values):
    (folder / (name + ".new")).write_text(json.dumps(values))
    (folder / (name + ".new")).rename(folder / name)
write("progress.json", {"stage": "train", "done": 30, "total": 120, "loss": 1.25})
while not Path(model + ".go").exists():
    if (folder / "cancel").exists():
        write("result.json", {"state": "cancelled"})
        raise SystemExit
    time.sleep(0.05)
shutil.copyfile(model, folder / "model.safetensors")
parts = [
    {**part, "new_score": part["old_score"] / 100, "new_anomalous": part["label"] == "defect"}
    for part in job["parts"]
]
write("result.json", {"state": "done", "threshold": 1.0, "parts": parts, "notes": []})
"""


@pytest.fixture
def trained(site, monkeypatch, toy_detector, tmp_path):
    """Returns the file whose presence lets the training end."""
    model = tmp_path / "new.safetensors"
    toy_detector.save(model, bundle=True)

    def spawn(jobs, number):
        arguments = [str(jobs._folder / number), str(model), "[]"]
        jobs._children[number] = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])

    monkeypatch.setattr(type(site.station.jobs), "_spawn", spawn)
    return model.with_name(model.name + ".go")


def test_a_model_is_trained_compared_put_to_use_and_taken_back(site, open_view, trained):
    rows, _ = site.station.records.page(Filter(), limit=40)
    bad = [row["id"] for row in rows if row["is_anomalous"]][:2]
    good = [row["id"] for row in rows if not row["is_anomalous"]][:3]
    site.station.marks.add(bad, "defect", "test")
    site.station.marks.add(good, "good", "test")
    site.station.marks.add(good[:1], "defect", "test")  # missed by the model in use

    page = open_view("/train")
    page.locator("#folders button").first.click()
    page.locator("#folders button").filter(has_text="good").click()
    wait_for_text(page, "#path", "good")
    page.click("#start button.primary")
    wait_for_text(page, "#jobs .job", "training: 30 of 120 · loss 1.250")
    page.reload()
    wait_for_text(page, "#jobs .job", "training: 30 of 120")
    bar = page.locator("#jobs [role=progressbar]")
    assert bar.get_attribute("aria-valuenow") == "25"
    trained.touch()
    page.locator("#jobs").get_by_role("button", name="Compare").click()
    wait_for_text(page, "#totals", "1 of 3")
    assert page.locator("#totals tr").nth(1).inner_text().split("\t")[1:] == ["1 of 3", "0 of 3"]
    assert page.locator("#comparison tr").count() == 5
    page.check("#differ")
    assert page.locator("#comparison tr").count() == 1

    before = site.station.registry.active("carpet").id
    page.locator("#jobs").get_by_role("button", name="Use version").click()
    page.click("#promote button.primary")  # the reason is missing
    assert page.locator("#promote").is_visible()
    page.fill("#reason", "sees the stain")
    page.click("#promote button.primary")
    wait_for_text(page, "#changes", "eve: sees the stain")
    assert site.station.registry.active("carpet").id == before + 1
    page.locator("#versions").get_by_role("button", name="Use it").click()
    page.fill("#reason", "too many false alarms")
    page.click("#promote button.primary")
    wait_for_text(page, "#changes", "eve: too many false alarms")
    assert site.station.registry.active("carpet").id == before


def test_a_training_is_cancelled(site, open_view, trained):
    page = open_view("/train")
    page.locator("#folders button").first.click()
    page.locator("#folders button").filter(has_text="good").click()
    wait_for_text(page, "#path", "good")
    page.click("#start button.primary")
    page.locator("#jobs").get_by_role("button", name="Cancel").click()
    page.wait_for_selector('#jobs .job[data-state="cancelled"]')


def test_why_a_training_failed_is_told_in_german(site, open_view, monkeypatch):
    failed = {"state": "failed", "error": "/a: no good images to train on"}
    failed |= {"code": "training.no_images", "values": {"folder": "/a"}}

    def spawn(jobs, number):
        progress = {"stage": "compare", "done": 0, "total": 1, "loss": None}
        (jobs._folder / number / "progress.json").write_text(json.dumps(progress))
        (jobs._folder / number / "result.json").write_text(json.dumps(failed))

    monkeypatch.setattr(type(site.station.jobs), "_spawn", spawn)
    page = open_view("/train", locale="de-DE")
    page.locator("#folders button").first.click()
    wait_for_text(page, "#path", "carpet")
    page.click("#start button.primary")
    wait_for_text(page, "#jobs .error", "/a: keine guten Bilder zum Trainieren.")
    assert site.station.jobs.all()[0]["error"] == failed["error"]


def test_too_few_marked_parts_are_told(site, open_view):
    page = open_view("/train")
    page.expect_refusal("/v1/jobs")
    page.check('[value="history"]')
    page.fill("#since", "2999-01-01T00:00")
    page.click("#start button.primary")
    wait_for_text(page, ".notice.wrong", "marked good")


def test_no_folder_means_no_training(open_view):
    page = open_view("/train")
    page.click("#start button.primary")
    wait_for_text(page, ".notice.wrong", "choose a folder")
