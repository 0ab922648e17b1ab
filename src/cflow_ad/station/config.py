"""The settings of a station: options of the command line, the rest in a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cflow_ad.errors import SettingsError

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask for."""

    upload_bytes: int = 64_000_000
    """Of one request."""
    pixels: int = 50_000_000
    """Of one image."""
    queue: int = 64
    """Images that wait or are scored; above this the answer is 429."""
    upload_seconds: float = 20.0
    """From the first byte of a request to its last."""
    score_seconds: float = 30.0
    """From then to the answer."""
    batch_images: int = 64
    """Of one batch request."""
    gather_ms: float = 5.0
    """On a GPU: how long an image may wait for others to be scored with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which pictures are kept, and for how long. The records stay in any case."""

    keep: str = "all"
    """`all`; `anomalous`, with those near the threshold; or `none`. The audit draw is kept."""
    near: float = 0.1
    """How near to the threshold, as a share of it, counts as near."""
    share: float = 0.0
    """Of the other pictures, kept at random, 0 to 1."""
    days: float = 90.0
    """After which a picture is deleted."""
    anomalous_days: float = 365.0
    """The same, for anomalous and audit pictures."""
    gigabytes: float = 50.0
    """Of all pictures; above it the oldest are deleted first."""
    free_gigabytes: float = 1.0
    """That stay free on the disk; below it the oldest pictures are deleted first."""

    def __post_init__(self) -> None:
        if self.keep not in ("all", "anomalous", "none"):
            raise SettingsError(f"retention.keep is {self.keep!r}: all, anomalous or none")
        if not 0 <= self.share <= 1:
            raise SettingsError(f"retention.share is {self.share}: it must be from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A watched folder: an image in it is inspected once it is whole."""

    folder: str
    model: str = ""
    """Empty where the station has one model."""
    every: float = 0.5
    """Seconds between looks."""
    after: str = "keep"
    """What becomes of an image: `keep`, `delete`, or `move` into its sub-folder `inspected`."""

    def __post_init__(self) -> None:
        if self.after not in ("keep", "delete", "move"):
            raise SettingsError(f"folders.after is {self.after!r}: keep, delete or move")
        if not self.every > 0:
            raise SettingsError(f"folders.every is {self.every:g}: it must be greater than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera."""

    name: str
    url: str
    """`rtsp://...` or a video file (PyAV), `usb:0` (OpenCV), `basler:` with a serial number or
    empty (pypylon), `gentl:PRODUCER.cti` (harvesters)."""
    model: str = ""
    every: float = 0.0
    """Seconds between inspections; 0, only when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """A broker that each verdict is published to, at QoS 1."""

    host: str
    port: int = 1883
    topic: str = "cflow-ad"
    """Verdicts go to TOPIC/STATION/inspection; `online` or `offline` to TOPIC/STATION/available."""
    user: str | None = None
    password_file: str | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL that each verdict is sent to, at least once."""

    url: str
    secret_file: str
    """Signs each message; see `sinks/webhook.py`."""
    only_anomalous: bool = False
    attempts: int = 12
    """After which a message is a dead letter: it is kept, and not sent again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvDrop:
    """A folder into which each verdict is put as a file of its own."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUa:
    """An OPC UA server that shows the last verdict."""

    host: str = "127.0.0.1"
    port: int = 4840


@dataclass(frozen=True, slots=True, kw_only=True)
class Modbus:
    """A Modbus TCP server that shows the last verdict."""

    host: str = "127.0.0.1"
    port: int = 5020


@dataclass(frozen=True, slots=True, kw_only=True)
class StationConfig:
    """A station's configuration; each field but the first three may stand in the TOML file."""

    data: Path
    """Where the database, pictures and models lie."""
    models: tuple[Path, ...] = ()
    """Model files; those of earlier starts are known already."""
    store: str | None = None
    """A model store, as `cflow-ad fleet train` fills it: its promoted models are served."""
    memory: float = 2.0
    """GiB of models in memory; the others are loaded when they are needed."""
    key_file: Path | None = None
    """Where a key of the role operator is written."""
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "station"
    """In records and messages, where several stations report to one place."""
    database: str | None = None
    """A URL such as `postgresql://user@host/name`; unset, SQLite in `data`."""
    device: str | None = None
    """Where to score, as torch names it; unset, a GPU if there is one."""
    workers: int | None = None
    """Images scored at the same time on a CPU; unset, one for each core."""
    audit_share: float = 0.02
    """Of all parts, drawn at random for a person to judge without the verdict."""
    hosts: tuple[str, ...] = ()
    """Names under which clients may reach it, beside its own address; empty, any where it does not
    listen on the loopback interface alone."""
    certificate: Path | None = None
    """PEM file for HTTPS."""
    certificate_key: Path | None = None
    roots: tuple[Path, ...] = ()
    """Folders under which an engineer may pick images to train on."""
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    folders: tuple[Folder, ...] = ()
    cameras: tuple[Camera, ...] = ()
    mqtt: Mqtt | None = None
    webhook: Webhook | None = None
    csv: CsvDrop | None = None
    opcua: OpcUa | None = None
    modbus: Modbus | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 100 or set(self.name) & set("/\\+#\0"):
            raise SettingsError(
                f"name is {self.name!r}: it must have 1 to 100 letters, and none of / \\ + #, "
                "which mean something else in names of files and MQTT topics"
            )
        if not self.memory > 0:
            raise SettingsError(f"memory is {self.memory} GiB: it must be greater than 0")
        if not 0 <= self.audit_share <= 1:
            raise SettingsError(f"audit_share is {self.audit_share}: it must be from 0 to 1")
        if len({camera.name for camera in self.cameras}) < len(self.cameras):
            raise SettingsError("two cameras have one name; give each its own")

    @property
    def database_url(self) -> str:
        """The database's URL, as SQLAlchemy takes it."""
        if self.database is None:
            return f"sqlite:///{self.data / 'station.db'}"
        for prefix in ("postgresql://", "postgres://"):
            if self.database.startswith(prefix):
                return "postgresql+psycopg://" + self.database.removeprefix(prefix)
        return self.database

    @property
    def is_local(self) -> bool:
        """Whether it listens on the loopback interface alone."""
        return self.host in ("127.0.0.1", "localhost", "::1")


def read_config(path: Path | None, **options: Any) -> StationConfig:
    """Read a configuration.

    Args:
        path: a TOML file whose names are those of `StationConfig`; unset, none.
        options: fields that the command line gives; they come before the file's. None is unset.

    Raises:
        SettingsError: the file cannot be read, or has an unknown or wrong field.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: it cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not a TOML file ({error}); correct it") from error
    values |= {name: value for name, value in options.items() if value is not None}
    return _build(StationConfig, values, str(path) if path else "the options")


def _build(kind: type[Part], values: Mapping[str, Any], where: str) -> Part:
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where}: {values!r} is not a table of {kind.__name__}")
    known = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(known)):
        raise SettingsError(
            f"{where}: unknown {', '.join(unknown)}; a {kind.__name__} has {', '.join(known)}"
        )
    made = {name: _convert(known[name], values[name], f"{where}, {name}") for name in values}
    try:
        return kind(**made)
    except TypeError as error:
        needed = [
            f.name
            for f in dataclasses.fields(kind)  # type: ignore[arg-type]
            if f.default is f.default_factory is dataclasses.MISSING and f.name not in made
        ]
        raise SettingsError(f"{where}: {', '.join(needed)} is missing") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(next(k for k in inner if k is not types.NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{where}: {value!r} is not a list")
        return tuple(_convert(inner[0], item, where) for item in value)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else _build(kind, value, where)  # type: ignore[arg-type]
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise SettingsError(f"{where}: {value!r} is not a {kind.__name__}")
    return value
