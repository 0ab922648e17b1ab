"""Start-up: the help, the import, a model's first prediction; and what an installation takes.

    python benchmarks/startup.py [--rounds 5] [--sizes] [--json FILE]
    python benchmarks/startup.py --quick

Seconds of processor time of whole processes, in rounds; the prediction is compared with what
importing torch and timm takes. `--sizes` installs the package and each extra into environments of
their own, which takes minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from sidebyside import markdown, report

from cflow_ad.data.carpet import write_carpet

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, "-m", "cflow_ad"]


def seconds(command: list[str]) -> float:
    """Processor time of a command, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def installed_sizes(folder: Path) -> dict[str, int]:
    """MiB of an environment with the package alone, and of one with each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sizes: dict[str, int] = {}
    for extra in ["", *project.get("optional-dependencies", {})]:
        home = folder / f"env-{extra}"
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        python = home / "bin" / "python"
        empty = _mebibytes(home)
        wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
        subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True)
        sizes[extra or "cflow-ad"] = _mebibytes(home) - empty
    return sizes


def _mebibytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*")) // 2**20


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes at the most")
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_carpet(folder / "carpet", train=6, good=1, per_defect=0, size=256)
        model, image = folder / "m.safetensors", next((folder / "carpet/test/good").iterdir())
        quickly = ["--steps", "1", "--size", "64x64"] if options.quick else ["--steps", "1"]
        subprocess.run(
            [*CLI, "train", str(folder / "carpet"), "-o", str(model), *quickly],
            check=True,
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        commands = {
            "import torch, timm": [sys.executable, "-c", "import torch, timm"],
            "python -c pass": [sys.executable, "-c", "pass"],
            "import cflow_ad": [sys.executable, "-c", "import cflow_ad"],
            "cflow-ad --help": [*CLI, "--help"],
            "cflow-ad predict, one image": [*CLI, "predict", str(model), str(image), "--exit-zero"],
        }
        rounds = 1 if options.quick else options.rounds
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(rounds):
            for label, command in commands.items():
                times[label].append(seconds(command))
        sizes = installed_sizes(folder) if options.sizes else {}
    base = times["import torch, timm"]
    rows = [
        [
            label,
            statistics.median(measured),
            statistics.median(a / b for a, b in zip(measured, base, strict=True)),
        ]
        for label, measured in times.items()
    ]
    print(markdown(["", "seconds of processor time", "import of torch and timm = 1"], rows))
    if sizes:
        print("\n" + markdown(["installed", "MiB"], [[k, v] for k, v in sizes.items()]))
    report({"times": times, "MiB": sizes}, options.json)


if __name__ == "__main__":
    main()
