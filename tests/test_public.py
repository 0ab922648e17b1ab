"""The public face, what importing it costs, and which part may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cflow_ad

SOURCE = Path(cflow_ad.__file__).parent
ORDER = [
    "errors",
    "process",
    "files",
    "quiet",
    "data",
    "scoring",
    "validation",
    "method",
    "presets",
    "settings",
    "cflow",
    "store",
    "fitting",
    "detector",
    "importers",
    "runtime",
    "evaluation",
    "export",
    "fleet",
    "station",
    "cli",
    "__main__",
]


def test_the_public_names_are_these():
    assert sorted(cflow_ad.__all__) == [
        "CalibrationError",
        "CalibrationWarning",
        "CflowError",
        "DataError",
        "Dataset",
        "DependencyError",
        "DepthWarning",
        "Detector",
        "DeviceError",
        "DeviceWarning",
        "DivergenceError",
        "Evaluation",
        "ExportError",
        "ImageError",
        "MaskError",
        "ModelFileError",
        "Prediction",
        "Region",
        "Sample",
        "Settings",
        "SettingsError",
        "StoreError",
        "TrainingError",
        "WeightsError",
        "__version__",
        "evaluate",
        "open_dataset",
        "tune_process",
    ]
    assert all(hasattr(cflow_ad, name) for name in cflow_ad.__all__)
    assert dir(cflow_ad) == sorted(cflow_ad.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cflow_ad.nonsense


@pytest.mark.parametrize("module", ["cflow_ad", "cflow_ad.cli", "cflow_ad.settings"])
def test_importing_is_quick_because_it_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in sys.modules if m in {heavy()!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decoding_and_sizing_need_no_torch():
    code = (
        "import sys, cflow_ad.data.images, cflow_ad.data.layouts, cflow_ad.scoring.loading, "
        "cflow_ad.data.carpet, cflow_ad.scoring.prediction, cflow_ad.scoring.anomaly_map, "
        "cflow_ad.runtime; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_runtime_needs_nothing_but_numpy_and_pillow():
    others = [*(set(heavy()) - {"numpy", "PIL"}), "safetensors", "onnxruntime", "openvino"]
    code = (
        f"import sys, cflow_ad.runtime.opening; print([m for m in {others!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def heavy():
    return ["torch", "timm", "numpy", "PIL", "scipy", "matplotlib", "rich", "jinja2"]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.name)
def test_imports_run_downwards_only(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part in ("__init__", "_version"):  # the package's own face
        return
    assert part in ORDER, f"{part} has no place in the order"
    for imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
        names = imported.split(".")
        if names[0] == "cflow_ad" and len(names) > 1 and names[1] in ORDER:
            assert ORDER.index(names[1]) <= ORDER.index(part), f"{path.name} imports {imported}"


def imports(tree):
    """Modules imported, even if only in a function; those for the type checker do not count."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
