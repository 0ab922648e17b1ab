"""Every error this package raises on purpose.

::

    CflowError
    ├── DataError              a data set, image or mask cannot be used
    │   ├── ImageError         one image file cannot be used
    │   ├── MaskError          one ground-truth mask does not fit its image
    │   └── FolderError        the names of folders do not say which images are good
    ├── SettingsError          a setting has a value it cannot have
    ├── WeightsError           the backbone's pretrained weights cannot be found or loaded
    ├── ModelFileError         a model file is missing, damaged, or not of this version
    ├── CalibrationError       a model has no threshold yet
    ├── TrainingError          training failed
    │   ├── DivergenceError    the likelihood became NaN or infinite
    │   └── SpaceError         a disk has too little space for the features
    ├── ExportError            a model cannot be exported with the same results
    ├── DeviceError            a GPU failed, or its memory is too small
    ├── StationError           the inspection station cannot do what was asked
    ├── StoreError             a store of models, or an object store, cannot be used
    ├── GroupError             another process that fits the same model cannot be reached
    │   └── ElsewhereError     another process failed, and says why itself
    ├── ForkError              a model was opened before os.fork and cannot be used after it
    └── DependencyError        an optional library is not installed

A message names the file or field that is wrong and says what to do. The command line prints it as
one line, without a traceback, and exits with status 2.

There are three warnings: `CalibrationWarning`, when there are too few images for the false-alarm
rate that was asked for; `DepthWarning`, when an image seems to hold fewer bits than it is read
with; and `DeviceWarning`, when a GPU uses smaller batches than stated, or no CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CflowError(Exception):
    """The base of every error raised on purpose.

    Args:
        text: the message.
        code: what went wrong, for a program that says it in another language; empty where the
            message is all there is.
        values: what such a text may name.
    """

    def __init__(self, text: str = "", *, code: str = "", **values: str | float) -> None:
        super().__init__(text)
        self.code = code
        self.values = values


class DataError(CflowError):
    """A data set, image or mask cannot be used."""


class ImageError(DataError):
    """One image file cannot be used."""


class MaskError(DataError):
    """One ground-truth mask does not fit its image."""


class FolderError(DataError):
    """The names of a data set's folders do not say which images are good."""

    options: tuple[str, ...] = ()
    """Command-line options that say it, guessed."""


class SettingsError(CflowError, ValueError):
    """A setting has a value it cannot have."""


class WeightsError(CflowError):
    """The backbone's pretrained weights cannot be found or loaded."""


class ModelFileError(CflowError):
    """A model file is missing, damaged, of another program, or of another version."""


class CalibrationError(CflowError):
    """A model has no threshold yet, because it was imported and not calibrated."""


class TrainingError(CflowError):
    """Training failed."""


class DivergenceError(TrainingError):
    """The likelihood became NaN or infinite."""


class SpaceError(TrainingError):
    """A disk has too little space for the features."""


class ForkError(CflowError):
    """A model was opened before os.fork, and cannot be used after it."""


class ExportError(CflowError):
    """A model cannot be exported with the same results."""


class StationError(CflowError):
    """The inspection station cannot do what was asked."""


class StoreError(CflowError):
    """A store of models, or an object store, cannot be used, or lacks what is asked for."""


class GroupError(CflowError):
    """Another process that fits or evaluates the same model cannot be reached."""


class ElsewhereError(GroupError):
    """Another process that fits or evaluates the same model failed, and says why itself."""


class DeviceError(CflowError):
    """A GPU failed, or its memory is too small."""


class DependencyError(CflowError):
    """An optional library is not installed; the message has the command that installs it."""


_EXTRAS = {
    "train": ("torch", "torchvision", "timm", "safetensors", "scipy", "matplotlib", "jinja2"),
    "runtime": ("onnxruntime",),
    "openvino": ("openvino",),
    "export": ("onnx", "onnxscript", "nncf"),
    "elpv": ("elpv_dataset",),
    "formats": ("tifffile", "imagecodecs"),
    "bayer": ("cv2",),
    "station": (
        "fastapi",
        "uvicorn",
        "sqlalchemy",
        "alembic",
        "argon2",
        "itsdangerous",
        "prometheus_client",
        "python_multipart",
    ),
    "postgres": ("psycopg",),
    "mqtt": ("aiomqtt",),
    "opcua": ("asyncua",),
    "modbus": ("pymodbus",),
    "parquet": ("pyarrow",),
    "video": ("av",),
    "usb-camera": ("cv2",),
    "basler": ("pypylon",),
    "gentl": ("harvesters",),
    "fleet": ("ray", "obstore", "pyarrow"),
    "ray-serve": ("grpc",),
}
"""The libraries that each extra of this package installs."""


def missing_library(error: ModuleNotFoundError) -> DependencyError | None:
    """Return the error for an optional library that is not installed; None for any other module."""
    library = (error.name or "").split(".")[0]
    for extra, libraries in _EXTRAS.items():
        if library in libraries:
            return DependencyError(
                f"this needs {library}, which is not installed: pip install 'cflow-ad[{extra}]'",
                code="library.missing",
                library=library,
                extra=extra,
            )
    return None


@contextmanager
def optional_library() -> Iterator[None]:
    """Raise a DependencyError where an optional library that is imported inside is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened; its type where that is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class CalibrationWarning(UserWarning):
    """There are too few images for the false-alarm rate that was asked for."""


class DepthWarning(UserWarning):
    """An image seems to hold fewer bits than it is read with, which makes it nearly black."""


class DeviceWarning(UserWarning):
    """A GPU uses smaller batches than stated, or no CUDA graph."""
