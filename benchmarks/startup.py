"""Start-up: the help, the import, a model's first prediction; and what an installation takes.

    python benchmarks/startup.py [--rounds 5] [--sizes]
    python benchmarks/startup.py --quick

Seconds of processor time of whole processes, in rounds, beside those of importing torch and timm.
`--sizes` installs the package and each extra into environments of their own, which takes minutes
and gigabytes.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # also for the processes that are measured

from common import QUICK, build_parser, fit, markdown, ratio, report

from cflow_ad import Settings
from cflow_ad.data.carpet import write_carpet

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, "-m", "cflow_ad"]
IMPORTS = "import torch, timm"


def measure_command(command: list[str]) -> float:
    """Measure the processor time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_installations(folder: Path) -> dict[str, int]:
    """Measure the MiB that the package alone and that each extra adds to an environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sizes: dict[str, int] = {}
    for extra in ["", *project.get("optional-dependencies", {})]:
        home = folder / f"env-{extra}"
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        empty = _mebibytes(home)
        wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
        install = [home / "bin" / "python", "-m", "pip", "install", "--quiet", wanted]
        subprocess.run(install, check=True)
        sizes[extra or "cflow-ad"] = _mebibytes(home) - empty
    return sizes


def _mebibytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*")) // 2**20


def main() -> None:
    """Measure, and print the tables."""
    parser = build_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", action="store_true", help="of installations")
    options = parser.parse_args()
    changes: dict[str, Any] = {"steps": 0}
    if options.quick:
        options.rounds, changes = 1, dict(QUICK)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_carpet(folder / "carpet", train=4, good=1, per_defect=0, size=256)
        model, image = folder / "m.safetensors", next((folder / "carpet/test/good").iterdir())
        fit(folder / "carpet", Settings.preset("default", **changes)).save(model)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            IMPORTS: [sys.executable, "-c", IMPORTS],
            "import cflow_ad": [sys.executable, "-c", "import cflow_ad"],
            "cflow-ad --help": [*CLI, "--help"],
            "cflow-ad predict, one image": [*CLI, "predict", str(model), str(image), "--exit-zero"],
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(options.rounds):
            for label, command in commands.items():
                times[label].append(measure_command(command))
        rows = [[k, statistics.median(v), ratio(times, k, IMPORTS)] for k, v in times.items()]
        print(markdown(["", "seconds of processor time", f"{IMPORTS} = 1"], rows))
        results["seconds"], results["model KiB"] = times, model.stat().st_size / 1024
        print(f"\nthe model file has {results['model KiB']:.0f} KiB", flush=True)
        if options.sizes:
            sizes = results["MiB"] = measure_installations(folder)
            print("\n" + markdown(["installed", "MiB"], list(sizes.items())))
    report(results, options.json)


if __name__ == "__main__":
    main()
