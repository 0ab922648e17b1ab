"""The tables. `migrations/` brings an older database to them; rows of the record never change."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_Number = BigInteger().with_variant(Integer, "sqlite")

models = Table(
    "models",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("name", String(100), nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("file", Text, nullable=False),  # below the folder of models
    Column("origin", Text, nullable=False),  # the file it was copied from, or the training job
    Column("created", String(32), nullable=False),
    Column("threshold", Float, nullable=False),  # as calibrated
    Column("map_threshold", Float, nullable=False),
    Column("calibration", JSON, nullable=False),
    Column("n_scores", Integer, nullable=False),  # of good images in the calibration
    Column("about", JSON, nullable=False),
)
"""Versions of models. Several have one name: one of them is in use."""

model_changes = Table(
    "model_changes",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("name", String(100), nullable=False, index=True),
    Column("version", _Number, ForeignKey("models.id"), nullable=False),
    Column("author", String(100), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", String(32), nullable=False),
    Column("seal", String(64), nullable=False),
)
"""Which version of a model is in use since when: the last row of a name counts."""

thresholds = Table(
    "thresholds",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("version", _Number, ForeignKey("models.id"), nullable=False, index=True),
    Column("value", Float, nullable=False),
    Column("author", String(100), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", String(32), nullable=False),
    Column("seal", String(64), nullable=False),
)
"""Thresholds of a version: the last row counts."""

inspections = Table(
    "inspections",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("id", String(36), nullable=False, unique=True),
    Column("request", String(100), unique=True),  # the client's Idempotency-Key, if any
    Column("time", String(32), nullable=False, index=True),
    Column("station", String(100), nullable=False),
    Column("source", Text, nullable=False),
    Column("version", _Number, ForeignKey("models.id"), nullable=False),
    Column("model", String(100), nullable=False),
    Column("sha256", String(64), nullable=False),  # of the model file
    Column("image_sha256", String(64), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("p_value", Float),
    Column("threshold_id", _Number, ForeignKey("thresholds.id"), nullable=False),
    Column("threshold", Float, nullable=False),
    Column("map_threshold", Float, nullable=False),
    Column("is_anomalous", Boolean, nullable=False),
    Column("regions", JSON, nullable=False),
    Column("latency_ms", JSON, nullable=False),
    Column("measures", JSON, nullable=False),
    Column("audit", Boolean, nullable=False),
    Column("seal", String(64), nullable=False),
    Index("ix_inspections_model_seq", "model", "seq"),
    Index("ix_inspections_version_seq", "version", "seq"),
    Index("ix_inspections_is_anomalous_seq", "is_anomalous", "seq"),
    Index("ix_inspections_audit_seq", "audit", "seq"),
)
"""The record."""

vectors = Table(
    "vectors",
    metadata,
    Column("seq", _Number, ForeignKey("inspections.seq"), primary_key=True, autoincrement=False),
    Column("version", _Number, nullable=False, index=True),
    Column("vector", LargeBinary, nullable=False),  # float16
)
"""The encoder's mean vector of each part, by which similar parts are found."""

pictures = Table(
    "pictures",
    metadata,
    Column("seq", _Number, ForeignKey("inspections.seq"), primary_key=True, autoincrement=False),
    Column("file", Text, nullable=False),  # below the folder of pictures
    Column("bytes", _Number, nullable=False),
    Column("expires", Float, nullable=False, index=True),  # seconds since 1970
)
"""Pictures that are kept at present."""

marks = Table(
    "marks",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("batch", String(36), nullable=False, index=True),
    Column("seq", _Number, ForeignKey("inspections.seq"), nullable=False, index=True),
    Column("label", String(8)),  # good or defect; empty where a mark is taken back
    Column("audit", Boolean, nullable=False),  # given blind, to a part of the random draw
    Column("author", String(100), nullable=False),
    Column("note", Text, nullable=False),
    Column("time", String(32), nullable=False),
    Column("seal", String(64), nullable=False),
)
"""What people said of parts: the last row of a part counts."""

sightings = Table(
    "sightings",
    metadata,
    Column("seq", _Number, ForeignKey("inspections.seq"), primary_key=True, autoincrement=False),
    Column("user", String(100), primary_key=True),
)
"""Who was told the verdict of a part of the random draw before anybody marked it."""

events = Table(
    "events",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("kind", String(20), nullable=False, index=True),
    Column("time", String(32), nullable=False),
    Column("model", String(100)),
    Column("data", JSON, nullable=False),
    Column("acknowledged_by", String(100)),
    Column("acknowledged_at", String(32)),
)
"""Drift alarms, cameras that were unplugged, messages that could not be sent."""

chains = Table(
    "chains",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("rows", _Number, nullable=False),
    Column("seal", String(64), nullable=False),
)
"""How many rows each sealed table has, and the last one's seal."""

users = Table(
    "users",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("password", Text, nullable=False),  # argon2id
    Column("created", String(32), nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("role", String(10), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("created", String(32), nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("user", String(100), ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("expires", Float, nullable=False),  # seconds since 1970
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("model", String(100), nullable=False),
    Column("state", String(10), nullable=False, index=True),
    Column("author", String(100), nullable=False),
    Column("created", String(32), nullable=False),
    Column("finished", String(32)),
    Column("options", JSON, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("version", _Number, ForeignKey("models.id")),
    Column("failure", JSON),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("sink", String(20), nullable=False),
    Column("seq", _Number, nullable=False),
    Column("payload", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due", Float, nullable=False, default=0.0),  # seconds since 1970
    Column("dead", Boolean, nullable=False, default=False),
    Column("error", Text),
    Index("ix_outbox_sink_dead_id", "sink", "dead", "id"),
)
"""Messages that were not sent yet: written with their inspection, deleted when they are sent."""

states = Table(
    "states",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("value", JSON, nullable=False),
)
"""What parts of the station remember from one start to the next."""
