"""Anomaly detection with conditional normalizing flows and a memory of good vectors.

Learn what *good* looks like from a folder of good images, then find, outline and score defects:

    from cflow_ad import Detector

    detector = Detector.fit("carpet/train/good")
    detector.save("carpet.safetensors")
    result = Detector.load("carpet.safetensors").predict("part.png")
    result.score, result.is_anomalous, result.anomaly_map, result.mask, result.regions

The method is CFLOW-AD (WACV 2022), with the memory of PatchCore (CVPR 2022) on one level; the
preset `paper` is CFLOW-AD alone.

`cflow` is the method, `scoring` what turns its energies into a result, `fitting` what makes a model
from good images. Names are imported when they are first used, so that `import cflow_ad` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cflow_ad._version import __version__
from cflow_ad.errors import (
    CalibrationError,
    CalibrationWarning,
    CflowError,
    DataError,
    DependencyError,
    DepthWarning,
    DeviceError,
    DeviceWarning,
    DivergenceError,
    ExportError,
    ImageError,
    MaskError,
    ModelFileError,
    SettingsError,
    StoreError,
    TrainingError,
    WeightsError,
    missing_library,
)

if TYPE_CHECKING:
    from cflow_ad.data.layouts import Dataset, Sample, open_dataset
    from cflow_ad.detector import Detector
    from cflow_ad.evaluation.evaluate import evaluate
    from cflow_ad.evaluation.evaluation import Evaluation
    from cflow_ad.process import tune_process
    from cflow_ad.scoring.prediction import Prediction, Region
    from cflow_ad.settings import Settings

__all__ = [
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

_HOME = {
    "Dataset": "data.layouts",
    "Detector": "detector",
    "Evaluation": "evaluation.evaluation",
    "Prediction": "scoring.prediction",
    "Region": "scoring.prediction",
    "Sample": "data.layouts",
    "Settings": "settings",
    "evaluate": "evaluation.evaluate",
    "open_dataset": "data.layouts",
    "tune_process": "process",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from None


def __dir__() -> list[str]:
    return __all__
