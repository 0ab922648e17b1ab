"""A picture's way from the bytes of its file to its verdict and its record."""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray
from sqlalchemy import Connection

from cflow_ad.scoring.prediction import Prediction
from cflow_ad.station.database import now
from cflow_ad.station.pictures import is_drawn
from cflow_ad.station.records import as_item
from cflow_ad.station.scoring import QueueFullError
from cflow_ad.station.version import Version

if TYPE_CHECKING:
    from cflow_ad.station.station import Station


class Inspected(NamedTuple):
    """A picture that was scored, and whose record is on its way."""

    number: str
    """The inspection's id."""
    prediction: Prediction
    written: Future[dict[str, Any]]
    """The row as stored: only then may the verdict be given. It has another id where the record
    knew the request's key already."""
    began: float
    """When it came, on the monotonic clock."""
    odds: dict[str, int] | None
    """Of its score, by the calibration of the version that scored it."""
    has_picture: bool
    """Whether its picture is kept."""
    pixels: NDArray[Any]
    """Of the picture, shape `(H, W, 3)`, 0 to 255."""


class Inspector:
    """Inspects pictures.

    Args:
        station: whose models, scorers and record are used.
    """

    def __init__(self, station: Station) -> None:
        self._station = station

    def inspect(
        self,
        data: bytes,
        model: str,
        *,
        source: str = "api",
        name: str = "the image",
        request: str | None = None,
    ) -> Future[Inspected]:
        """Score a picture, and have its record written.

        Args:
            data: an image file.
            model: its name.
            source: where the picture comes from, for the record.
            name: of the picture, in errors.
            request: a client's own key of this inspection, which is done once only.

        Raises:
            KeyError: there is no such model.
            QueueFullError: too many wait.
        """
        station = self._station
        version = station.registry.active(model)
        if station.database.waiting > 2 * station.scorers.limit:
            raise QueueFullError(
                "many records wait to be written; try again soon", code="inspect.records"
            )
        began = time.monotonic()
        return station.scorers.submit(self._inspect, data, version, source, name, request, began)

    def _inspect(
        self,
        data: bytes,
        version: Version,
        source: str,
        name: str,
        request: str | None,
        began: float,
    ) -> Inspected:
        """Score in a thread of the pool, put the picture in its place, and hand over the record."""
        station = self._station
        picture: dict[str, Any] | None = None
        outcome = station.scorers.score(station.registry.detector(version.id), data, name)
        waited = 1000 * (time.monotonic() - began) - outcome.score_ms
        prediction = dataclasses.replace(
            outcome.prediction,
            threshold=version.threshold,
            map_threshold=version.map_threshold,
        )
        audit = is_drawn(station.config.audit_share)
        number = str(uuid.uuid4())
        row = {
            "id": number,
            "request": request,
            "time": now(),
            "station": station.config.name,
            "source": source,
            "version": version.id,
            "model": version.name,
            "sha256": version.sha256,
            "image_sha256": outcome.sha256,
            "width": outcome.pixels.shape[1],
            "height": outcome.pixels.shape[0],
            "score": prediction.score,
            "p_value": version.calibration.compute_p_value(prediction.score),
            "threshold_id": version.threshold_id,
            "threshold": prediction.threshold,
            "map_threshold": prediction.map_threshold,
            "is_anomalous": prediction.is_anomalous,
            "regions": [region.to_dict() for region in prediction.regions],
            "latency_ms": {
                "queue": round(waited, 3),
                "score": round(outcome.score_ms, 3),
            },
            "measures": outcome.measures,
            "audit": audit,
        }
        odds = version.odds(row["p_value"])
        verdict = prediction.is_anomalous
        if station.pictures.wants(
            is_anomalous=verdict,
            score=prediction.score,
            threshold=prediction.threshold,
            audit=audit,
        ):
            picture = station.pictures.keep(data, number, longer=verdict or audit)
        tries = itertools.count()

        def write(connection: Connection) -> dict[str, Any]:
            return station.records.insert(
                connection, row, outcome.vector, picture, is_repeated=next(tries) > 0
            )

        def follow(stored: dict[str, Any]) -> None:
            if stored["id"] == number:
                station.follower.hand(as_item(stored, odds, has_picture=picture is not None))

        written = station.database.submit(write, follow)
        if picture is not None:
            kept = station.pictures.path(picture["file"])
            written.add_done_callback(
                lambda done: None if _is_stored(done, number) else station.pictures.drop(kept)
            )
        return Inspected(
            number, prediction, written, began, odds, picture is not None, outcome.pixels
        )

    def score_kept(self, number: str) -> tuple[dict[str, Any], Prediction, NDArray[Any]]:
        """Score the kept picture of an inspection again, with the model and threshold of then.

        Returns:
            The inspection, the result, and the picture's pixels, shape `(H, W, 3)`, 0 to 255.

        Raises:
            KeyError: there is no such inspection, or its picture is not kept.
            QueueFullError: too many wait.
        """
        station = self._station
        row, path = station.records.get(number), station.picture_path(number)
        if row is None or path is None:
            raise KeyError(number)
        detector = station.registry.detector(row["version"])
        data = path.read_bytes()
        outcome = station.scorers.submit(
            station.scorers.score, detector, data, is_extra=True
        ).result()
        prediction = dataclasses.replace(
            outcome.prediction, threshold=row["threshold"], map_threshold=row["map_threshold"]
        )
        return row, prediction, outcome.pixels


def _is_stored(done: Future[dict[str, Any]], number: str) -> bool:
    """Whether a record was written, and not found to be a repeated one."""
    return done.exception() is None and done.result()["id"] == number
