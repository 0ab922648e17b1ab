"""Every benchmark runs to its end in its quick form."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

import cflow_ad

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("alignment", "| rigid, foreground |"),
        ("contamination", "| seed | hidden | found |"),
        ("false_alarms", "| 20.00% |"),
        ("formats", "| trained on 12 bits in 16 |"),
        ("gpu", "| CPU and GPU, other decisions | 0 |"),
        ("growth", "predict s grows with the power"),
        ("large", "| images | imports MiB | peak MiB |"),
        ("memory", "| torch |"),
        ("metrics", "| scikit-learn |"),
        ("products", "| second | all |"),
        ("runtimes", "| onnx fp32 |"),
        ("scoring", "| FrEIA's decoders |"),
        ("startup", "| cflow-ad predict, one image |"),
        ("station", "| answered and not recorded |"),
        ("training", "passes of the paper's schedule take"),
        ("variants", "| update |"),
    ],
)
def test_a_benchmark_runs(script, shown, tmp_path, monkeypatch, capsys):
    run(monkeypatch, script, "--json", tmp_path / "out.json")
    assert shown in capsys.readouterr().out
    assert (tmp_path / "out.json").stat().st_size > 100


def test_quality_resumes(tmp_path, monkeypatch, capsys):
    results = tmp_path / "quality.jsonl"
    run(monkeypatch, "quality", "--results", results)
    first = results.read_text()
    assert first.count("\n") == 3  # seeds
    run(monkeypatch, "quality", "--results", results)
    assert results.read_text() == first
    assert capsys.readouterr().out.count("| carpet | ") == 2


def test_quality_trains_on_so_many_images(tmp_path, monkeypatch, capsys):
    results = tmp_path / "quality.jsonl"
    run(monkeypatch, "quality", "--seeds", "0", "--results", results)
    run(monkeypatch, "quality", "--images", "2", "--seeds", "0", "--results", results)
    of_all, of_two = (json.loads(line) for line in results.read_text().splitlines())
    assert (of_all["label"], of_two["label"]) == ("default", "default 2 images")
    # The least rate that n images allow is 1 / (n + 1).
    assert (of_all["promised"], of_two["promised"]) == (pytest.approx(20), pytest.approx(100 / 3))


def result(label, name, seed, auroc, aupro):
    return {"label": label, "set": name, "seed": seed, "image_auroc": auroc, "aupro": aupro}


def test_a_comparison_marks_what_is_beyond_the_seeds(monkeypatch):
    tables = import_tables(monkeypatch)
    first = [result("a", "x", seed, 90 + seed, 50.0) for seed in range(3)]
    second = [result("b", "x", seed, 91 + seed, 52.0) for seed in range(3)]
    table = tables.build_comparison(first, second, "b less a")
    assert "| x | +1.0 | - | +2.0* |" in table


def test_a_choice_that_hangs_on_one_set_is_named(monkeypatch):
    tables = import_tables(monkeypatch)
    nan = float("nan")  # without masks
    base = [result("base", name, 0, 90.0, nan) for name in "xyz"]
    lucky = [result("lucky", *x, nan) for x in [("x", 0, 96.0), ("y", 0, 90.5), ("z", 0, 89.6)]]
    steady = [result("steady", name, 0, 91.0, nan) for name in "xyz"]
    harmful = [result("harmful", *x, nan) for x in [("x", 0, 99.0), ("y", 0, 99.0), ("z", 0, 88.0)]]
    alternatives = {"base": base, "lucky": lucky, "steady": steady, "harmful": harmful}
    table = tables.build_choice(alternatives, most_lost=0.5)
    assert "| chosen without the set | steady | lucky | harmful | with all: lucky |" in table
    assert table.endswith("lucky: the choice hangs on x, z")
    del alternatives["lucky"], alternatives["harmful"]
    assert tables.build_choice(alternatives, 0.5).endswith("steady: it hangs on no set")


def import_tables(monkeypatch):
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("results")


def test_the_ablation_resumes(tmp_path, monkeypatch, capsys):
    results = tmp_path / "ablation.jsonl"
    run(monkeypatch, "ablation", "--results", results)
    first = results.read_text()
    assert first.count("\n") == 2  # the default, and one change
    run(monkeypatch, "ablation", "--results", results)
    assert results.read_text() == first
    assert "| the paper's flow | " in capsys.readouterr().out


def run(monkeypatch, script, *options):
    """Run a script in this process, which has already imported torch."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    path = FOLDER / f"{script}.py"
    monkeypatch.setattr(cflow_ad, "tune_process", lambda: None)  # it would last
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", *map(str, options)])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(path), run_name="__main__")
