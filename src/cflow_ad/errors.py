"""Every error this package raises on purpose.

::

    CflowError
    ├── DataError              a data set, image or mask cannot be used
    │   ├── ImageError         one image file cannot be used
    │   └── MaskError          one ground-truth mask does not fit its image
    ├── SettingsError          a setting has a value it cannot have
    ├── WeightsError           the backbone's pretrained weights are not to be had
    ├── ModelFileError         a model file is missing, damaged, foreign or newer than this version
    ├── CalibrationError       a model has no threshold yet
    ├── TrainingError          training cannot go on
    │   └── DivergenceError    the likelihood became NaN or infinite
    ├── ExportError            an exported model would not give the trained model's results
    └── DependencyError        an optional library is not installed

A message names the file or field at fault and the way out. The command line prints it as one
line and exits with status 2; it never shows a traceback for one of these.

One warning is given: `CalibrationWarning`, when the threshold promises less than was asked for.
"""

from __future__ import annotations


class CflowError(Exception):
    """The base of every error raised on purpose."""


class DataError(CflowError):
    """A data set, image or mask cannot be used."""


class ImageError(DataError):
    """One image file cannot be used."""


class MaskError(DataError):
    """One ground-truth mask does not fit its image."""


class SettingsError(CflowError, ValueError):
    """A setting has a value it cannot have."""


class WeightsError(CflowError):
    """The backbone's pretrained weights are not to be had."""


class ModelFileError(CflowError):
    """A model file is missing, damaged, foreign, or newer than this version reads."""


class CalibrationError(CflowError):
    """A model has no threshold yet, because it was imported and not calibrated."""


class TrainingError(CflowError):
    """Training cannot go on."""


class DivergenceError(TrainingError):
    """The likelihood became NaN or infinite."""


class ExportError(CflowError):
    """An exported model would not give the trained model's results."""


class DependencyError(CflowError):
    """An optional library is not installed; the message has the command that installs it."""


_EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "safetensors": "train",
    "scipy": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "onnxruntime": "runtime",
    "openvino": "openvino",
    "onnx": "export",
    "onnxscript": "export",
    "nncf": "export",
    "elpv_dataset": "elpv",
    "av": "video",
}
"""Which extra of this package brings which library."""


def missing_library(error: ModuleNotFoundError) -> DependencyError | None:
    """Say how to get the optional library that an import did not find; None where it is not one."""
    library = (error.name or "").split(".")[0]
    extra = _EXTRAS.get(library)
    if extra is None:
        return None
    return DependencyError(
        f"this needs {library}, which is not installed: pip install 'cflow-ad[{extra}]'"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says, cut short; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class CalibrationWarning(UserWarning):
    """The threshold promises less than was asked for."""
