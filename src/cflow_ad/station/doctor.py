"""What is installed, what is missing and why it would matter, and what this machine can do."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cflow_ad._version import __version__
from cflow_ad.errors import CflowError
from cflow_ad.process import usable_cores
from cflow_ad.station.config import StationConfig

_PARTS = (
    (
        "station",
        ("fastapi", "uvicorn", "sqlalchemy", "alembic", "argon2"),
        "the inspection station",
    ),
    ("train", ("torch", "timm", "scipy", "safetensors"), "trained models (.safetensors), training"),
    ("runtime", ("onnxruntime",), "exported models (.onnx)"),
    ("openvino", ("openvino",), "exported models (.xml)"),
    ("export", ("onnx", "onnxscript", "nncf"), "exporting models"),
    ("postgres", ("psycopg",), "a PostgreSQL database"),
    ("mqtt", ("aiomqtt",), "verdicts to an MQTT broker"),
    ("opcua", ("asyncua",), "verdicts by OPC UA"),
    ("modbus", ("pymodbus",), "verdicts by Modbus TCP"),
    ("parquet", ("pyarrow",), "exporting records to Parquet"),
    ("video", ("av",), "RTSP cameras and video files"),
    ("usb-camera", ("cv2",), "USB cameras"),
    ("basler", ("pypylon",), "Basler cameras"),
    ("gentl", ("harvesters",), "cameras of other vendors, by GenTL"),
)
_LEAST_FREE = 5e9


class Finding(NamedTuple):
    """The result of one check."""

    state: str
    """`ok`, `missing` (only what needs it does not work) or `fault`."""
    what: str
    text: str


def examine(config: StationConfig) -> Iterator[Finding]:
    """Look at the installation, the machine and the folder of data."""
    version = platform.python_version()
    yield Finding("ok", "cflow-ad", f"{__version__}, Python {version} in {sys.prefix}")
    for extra, modules, use in _PARTS:
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            how = f"pip install 'cflow-ad[{extra}]'"
            text = f"for {use}: {', '.join(missing)} is not installed: {how}"
            yield Finding("missing", extra, text)
        else:
            yield Finding("ok", extra, f"{use} ({_version(modules[0])})")
    yield from _examine_machine()
    yield from _examine_data(config)


def _examine_machine() -> Iterator[Finding]:
    cores = usable_cores()
    yield Finding("ok", "cores", f"{cores} may be used: as many images are scored at a time")
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            yield Finding("ok", "GPU", f"{name}: images that come together are scored together")
        else:
            yield Finding("missing", "GPU", "torch finds none: the CPU scores")
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        found = ", ".join(onnxruntime.get_available_providers())
        yield Finding("ok", "onnxruntime", f"runs on {found}")


def _examine_data(config: StationConfig) -> Iterator[Finding]:
    folder = config.data.absolute()
    at = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(at).free
    text = f"{folder}; {free / 1e9:.1f} GB free"
    if not os.access(at, os.W_OK):
        yield Finding("fault", "data", f"{folder}: no permission to write in {at}")
    elif free < _LEAST_FREE:
        yield Finding("fault", "data", f"{text}: too little for long; give --data another disk")
    else:
        yield Finding("ok", "data", text)
    if config.database is None and not (folder / "station.db").exists():
        yield Finding("missing", "record", "there is none yet: `cflow-ad serve MODEL` begins one")
        return
    if importlib.util.find_spec("sqlalchemy") is not None:
        yield _examine_record(config)
    for path in config.models:
        yield _examine_model(path)


def _examine_record(config: StationConfig) -> Finding:
    from sqlalchemy import func, make_url, select
    from sqlalchemy.exc import SQLAlchemyError

    from cflow_ad.station.schema import inspections, model_changes
    from cflow_ad.station.verify import connect

    where = make_url(config.database_url).render_as_string(hide_password=True)
    try:
        with connect(config) as connection:
            count = connection.scalar(select(func.count()).select_from(inspections))
            names = sorted(connection.scalars(select(model_changes.c.name).distinct()))
    except (CflowError, SQLAlchemyError) as error:
        return Finding("fault", "record", f"{where}: {error}")
    return Finding("ok", "record", f"{where}: {count} inspections by {', '.join(names)}")


def _examine_model(path: Path) -> Finding:
    from cflow_ad.runtime.opening import describe

    try:
        describe(path)
    except CflowError as error:
        return Finding("fault", "model", str(error))
    return Finding("ok", "model", f"{path}")


_distributions = functools.cache(importlib.metadata.packages_distributions)  # reads all of them


def _version(module: str) -> str:
    found = _distributions().get(module)
    return f"{found[0]} {importlib.metadata.version(found[0])}" if found else module
