"""Every benchmark runs to its end in its quick form."""

from __future__ import annotations

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
        ("few", "| 4 + 1 copies each |"),
        ("growth", "predict s grows with the power"),
        ("large", "| images | imports MiB | peak MiB |"),
        ("metrics", "| scikit-learn |"),
        ("runtimes", "| onnx fp32 |"),
        ("scoring", "| FrEIA's decoders |"),
        ("startup", "| cflow-ad predict, one image |"),
        ("training", "passes of the paper's schedule take"),
    ],
)
def test_a_benchmark_runs(script, shown, tmp_path, monkeypatch, capsys):
    run(script, "--json", tmp_path / "out.json", monkeypatch)
    assert shown in capsys.readouterr().out
    assert (tmp_path / "out.json").stat().st_size > 100


def test_the_ablation_resumes(tmp_path, monkeypatch, capsys):
    results = tmp_path / "ablation.jsonl"
    run("ablation", "--results", results, monkeypatch)
    first = results.read_text()
    assert first.count("\n") == 2  # the default, and one change
    run("ablation", "--results", results, monkeypatch)
    assert results.read_text() == first
    assert "| the paper's flow | " in capsys.readouterr().out


def run(script, option, out, monkeypatch):
    """Run a script in this process, which has already imported torch."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    path = FOLDER / f"{script}.py"
    monkeypatch.setattr(cflow_ad, "tune_process", lambda: None)  # it would last
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", option, str(out)])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(path), run_name="__main__")
