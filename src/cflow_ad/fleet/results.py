"""Results of one shard, as a Parquet file that appears when it is whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cflow_ad.scoring.prediction import Prediction

UNFINISHED = ".unfinished"
_ROWS = 4096  # in memory, and in a row group

_REGION = pa.struct(
    [
        pa.field("box", pa.list_(pa.int32())),
        pa.field("area", pa.int64()),
        pa.field("peak", pa.float64()),
        pa.field("centroid", pa.list_(pa.float64())),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("image", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("is_anomalous", pa.bool_()),
        pa.field("regions", pa.list_(_REGION)),
        pa.field("error", pa.string()),
    ]
)
"""The columns. An image that cannot be used has an error, and neither score nor regions."""


@dataclass(frozen=True)
class Counts:
    """How many images a shard has, and what came of them."""

    images: int = 0
    anomalous: int = 0
    unreadable: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.anomalous + other.anomalous,
            self.unreadable + other.unreadable,
        )


def row_of(image: str, prediction: Prediction | None, error: str | None = None) -> dict[str, Any]:
    """Build the row of an image: of its result, or of why there is none."""
    if prediction is None:
        return dict.fromkeys(SCHEMA.names) | {"image": image, "error": error}
    return {
        "image": image,
        "score": prediction.score,
        "is_anomalous": prediction.is_anomalous,
        "regions": [region.to_dict() for region in prediction.regions],
        "error": None,
    }


def write_results(path: Path, rows: Iterable[dict[str, Any]], about: dict[str, str]) -> Counts:
    """Write a shard's results; equal rows give equal bytes.

    Args:
        path: the file, which gets its name when it is whole.
        rows: as `row_of` makes them, at most some thousands of which are in memory.
        about: kept in the file's metadata, beside the counts.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
    counts = Counts()
    try:
        with pq.ParquetWriter(new, SCHEMA, compression="zstd") as writer:
            part: list[dict[str, Any]] = []
            for row in rows:
                part.append(row)
                counts += Counts(1, row["is_anomalous"] is True, row["error"] is not None)
                if len(part) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(part, SCHEMA))
                    part = []
            if part:
                writer.write_table(pa.Table.from_pylist(part, SCHEMA))
            numbers = {name: str(int(value)) for name, value in asdict(counts).items()}
            writer.add_key_value_metadata(about | numbers)
        with new.open("r+b") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return counts


def read_counts(path: Path) -> Counts | None:
    """Read the counts of a file of results; None where it is not there."""
    try:
        found = pq.read_metadata(path).metadata
    except FileNotFoundError:
        return None
    return Counts(*(int(found[name.encode()]) for name in asdict(Counts())))
