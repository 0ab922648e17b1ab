"""A folder into which each verdict is put as a CSV file of its own, whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_ad.files import replacing
from cflow_ad.station.config import CsvDrop
from cflow_ad.station.sinks.outbox import Message
from cflow_ad.station.sinks.sink import OutboxSink

if TYPE_CHECKING:
    from cflow_ad.station.station import Station


class CsvSink(OutboxSink):
    """Writes the files.

    Args:
        station: whose verdicts they are.
        config: which folder.
    """

    name = "csv"

    def __init__(self, station: Station, config: CsvDrop) -> None:
        super().__init__(station)
        self._folder = Path(config.folder).expanduser()

    def send(self, message: Message) -> None:
        """Write one file, named by the number of its inspection: written twice, it is the same."""
        values = json.loads(message.payload)
        values["regions"] = json.dumps(values["regions"])
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{values['station']}-{message.seq:010d}.csv"
        with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(values))
            writer.writeheader()
            writer.writerow(values)
