"""Check the record of a station, and write it to a file."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cflow_ad.data.encoded import EncodedImage
from cflow_ad.errors import CflowError, StationError, optional_library
from cflow_ad.files import replacing
from cflow_ad.fleet.serving import DetectorCache
from cflow_ad.station import chain
from cflow_ad.station.config import StationConfig
from cflow_ad.station.model_files import hash_model
from cflow_ad.station.schema import (
    inspections,
    marks,
    model_changes,
    models,
    pictures,
    thresholds,
)

_SAME = 1e-4
"""How far a score may lie from the recorded one, relative to it (at least 1): what another machine
or number of threads does to it."""
_COLUMNS = [c for c in inspections.c if c.name not in ("seal", "request")]


def verify(config: StationConfig, *, rescore: int | None = None) -> Iterator[str]:
    """Say what is wrong with the record; nothing, where all is whole.

    Every row's seal is checked, every model file's hash, and every kept picture's; the pictures are
    scored again, by the model that scored them.

    Args:
        config: of the station, which may be running.
        rescore: how many pictures to score again, the newest; unset, all.

    Raises:
        StationError: there is no station, or its database cannot be read.
    """
    key = _read_key(config)
    with connect(config) as connection:
        for table in (inspections, thresholds, model_changes, marks):
            yield from chain.check(connection, table, key)
        found = connection.execute(select(models)).all()
        files = {}
        for row in found:
            files[row.id] = config.data / "models" / row.file
            yield from _check_model(files[row.id], row.sha256)
        yield from _check_pictures(connection, config, files, rescore)


def export(config: StationConfig, path: Path) -> int:
    """Write all inspections to a file, the oldest first, with their last mark.

    Args:
        config: of the station, which may be running.
        path: `.csv` or `.parquet`.

    Returns:
        How many.

    Raises:
        StationError: there is no station, the name is another, or the file cannot be written.
        DependencyError: Parquet needs pyarrow.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise StationError(f"{path}: the name must end in .csv or .parquet")
    try:
        with connect(config) as connection, replacing(path) as new:
            if path.suffix.lower() == ".csv":
                return _write_csv(connection, new)
            return _write_parquet(connection, new)
    except OSError as error:
        raise StationError(f"{path}: it cannot be written ({error.strerror or error})") from error


def _read_key(config: StationConfig) -> bytes:
    try:
        return (config.data / "station.key").read_bytes()
    except OSError as error:
        raise StationError(
            f"{config.data}: there is no station here ({error.strerror}); name its folder with "
            "--data"
        ) from error


def connect(config: StationConfig) -> Connection:
    """Connect to the database of a station, which may be running.

    Raises:
        StationError: there is none, or it cannot be read.
    """
    if config.database is None and not (config.data / "station.db").exists():
        raise StationError(f"{config.data}: there is no station here; name its folder with --data")
    try:
        return create_engine(config.database_url, poolclass=NullPool).connect()
    except SQLAlchemyError as error:
        raise StationError(f"{config.data}: the database cannot be read ({error})") from error


def _check_model(path: Path, sha256: str) -> Iterator[str]:
    try:
        if hash_model(path) != sha256:
            yield f"model {path}: altered"
    except StationError:
        yield f"model {path}: missing"


def _check_pictures(
    connection: Connection, config: StationConfig, files: dict[int, Path], rescore: int | None
) -> Iterator[str]:
    from cflow_ad.runtime.opening import open_detector

    detectors = DetectorCache[int](
        lambda number: open_detector(files[number], device=config.device), config.memory
    )
    query = (
        select(inspections, pictures.c.file)
        .join(pictures, pictures.c.seq == inspections.c.seq)
        .order_by(inspections.c.seq.desc())
    )
    rows = connection.execution_options(yield_per=500).execute(query)
    for number, row in enumerate(rows):
        path = config.data / "pictures" / row.file
        name = f"picture of inspection {row.seq} ({path})"
        try:
            data = path.read_bytes()
        except OSError:
            if _is_kept(config, row.seq):
                yield f"{name}: missing"
            continue
        if hashlib.sha256(data).hexdigest() != row.image_sha256:
            yield f"{name}: altered"
            continue
        if rescore is not None and number >= rescore:
            continue
        try:
            score = detectors.get(row.version).predict(EncodedImage(data, str(path))).score
        except CflowError as error:
            yield f"{name}: it cannot be scored again ({error})"
            continue
        if abs(score - row.score) > _SAME * max(1.0, abs(row.score)):
            yield f"{name}: its score is {score:.6g}, and {row.score:.6g} in the record"


def _is_kept(config: StationConfig, seq: int) -> bool:
    """Whether a picture is kept still: a station that runs may have deleted it meanwhile."""
    with connect(config) as connection:
        return connection.scalar(select(pictures.c.seq).where(pictures.c.seq == seq)) is not None


def _rows(connection: Connection) -> Iterator[dict[str, Any]]:
    labels = {}
    for mark in connection.execute(select(marks.c.seq, marks.c.label).order_by(marks.c.id)):
        labels[mark.seq] = mark.label
    query = select(*_COLUMNS).order_by(inspections.c.seq)
    for row in connection.execution_options(yield_per=1000).execute(query):
        values = dict(row._mapping)
        for name in ("regions", "latency_ms", "measures"):
            values[name] = json.dumps(values[name])
        yield values | {"mark": labels.get(row.seq)}


def _write_csv(connection: Connection, path: Path) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(c.name for c in _COLUMNS), "mark"])
        writer.writeheader()
        for row in _rows(connection):
            writer.writerow(row)
            count += 1
    return count


def _write_parquet(connection: Connection, path: Path) -> int:
    with optional_library():
        import pyarrow
        from pyarrow import parquet
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    fields = [(c.name, kinds.get(c.type.python_type, pyarrow.string())) for c in _COLUMNS]
    schema = pyarrow.schema([*fields, ("mark", pyarrow.string())])
    count, waiting = 0, []
    with parquet.ParquetWriter(path, schema) as writer:
        for row in _rows(connection):
            waiting.append(row)
            count += 1
            if len(waiting) == 10_000:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting = []
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
    return count
