"""Write predictions as they are made: lines, rows, maps, masks, overlays, a figure."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.naming import name_results
from cflow_ad.errors import SettingsError
from cflow_ad.evaluation.overlay import map_scale, overlay
from cflow_ad.files import naming, require_writable, write_whole
from cflow_ad.scoring.prediction import Prediction

_COLUMNS = ("path", "score", "threshold", "is_anomalous", "p_value")
_MOST_IN_PICTURE = 12


@dataclass(frozen=True)
class Wanted:
    """What to write.

    Raises:
        SettingsError: the options do not go together.
    """

    folder: Path | None
    table: Path | None = None
    maps: str | None = None
    masks: bool = False
    overlays: bool = False
    picture: Path | None = None

    def __post_init__(self) -> None:
        if self.maps not in (None, "npy", "png"):
            raise SettingsError(f"--maps {self.maps}: give npy or png")
        if self.table is not None and self.table.suffix not in (".csv", ".jsonl"):
            raise SettingsError(f"--table {self.table}: the name must end in .csv or .jsonl")
        if self.picture is not None and self.picture.suffix not in (".png", ".svg"):
            raise SettingsError(f"--picture {self.picture}: the name must end in .png or .svg")
        for option, file in (("table", self.table), ("picture", self.picture)):
            if file is not None and file.is_dir():
                raise SettingsError(f"--{option} {file}: this is a folder; name a file in it")
        of_each = bool(self.maps or self.masks or self.overlays)
        if of_each and self.folder is None:
            raise SettingsError("--maps, --masks and --overlays need a folder: give --output")
        if self.folder is not None and not of_each:
            raise SettingsError(
                f"--output {self.folder}: say what to write there: --maps, --masks or --overlays"
            )

    @property
    def needs_maps(self) -> bool:
        """Whether anomaly maps are needed, and not the scores alone."""
        return bool(self.folder or self.picture or self.has_regions)

    @property
    def folders(self) -> list[Path]:
        """The folders of maps, masks and overlays, of those that are wanted."""
        kinds = {"maps": self.maps, "masks": self.masks, "overlays": self.overlays}
        return [self.folder / kind for kind, wanted in kinds.items() if self.folder and wanted]

    @property
    def images(self) -> list[Path]:
        """Where images are written: those folders, and the picture."""
        return [*self.folders, *([] if self.picture is None else [self.picture])]

    @property
    def has_regions(self) -> bool:
        """Whether the table holds the regions."""
        return self.table is not None and self.table.suffix == ".jsonl"


class Writer:
    """Writes each prediction at once, so that an interrupted run keeps its results.

    Args:
        wanted: what to write.
        paths: all images; the names of the files depend on them.
        root: the folder whose structure the files keep; see `name_results`.
        say: prints a line in a colour.
        pixels_of: reads an image, by its path.

    Raises:
        SettingsError: an image lies where results are written.
    """

    def __init__(
        self,
        wanted: Wanted,
        paths: Sequence[Path],
        root: Path | None,
        *,
        pixels_of: Callable[[str], NDArray[Any]],
        say: Callable[[str, str | None], None],
    ) -> None:
        self._wanted = wanted
        self._pixels_of = pixels_of
        self._say = say
        self._names: dict[str, str] = {}
        # A link keeps its own name: two of them may lead to one file.
        absolute = [Path(os.path.abspath(path)) for path in paths if wanted.images]  # noqa: PTH100
        for target in wanted.images:
            _require_apart(absolute, target)
        if wanted.folder is not None:
            named = zip(paths, name_results(absolute, root), strict=True)
            self._names = {str(path): name for path, name in named}
        self._drawn: list[Prediction] = []
        self._open = ExitStack()
        self._file: io.FileIO | None = None
        self._length = 0

    def __enter__(self) -> Self:
        # All folders now, so that a wrong path fails before the first image.
        wanted = self._wanted
        for path in wanted.images:
            require_writable(path / "image.png" if path in wanted.folders else path)
        files = [file for file in (wanted.table, wanted.picture) if file is not None]
        for folder in (*wanted.folders, *(file.parent for file in files)):
            folder.mkdir(parents=True, exist_ok=True)
        if wanted.table is not None:
            self._open.enter_context(naming(wanted.table))  # for what is written only at the end
            self._file = self._open.enter_context(wanted.table.open("wb", buffering=0))
            if wanted.table.suffix == ".csv":
                with naming(wanted.table):
                    self._append(self._file, _row(_COLUMNS))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if self._wanted.picture is not None and self._drawn:
            self._draw(self._wanted.picture)

    def write(self, prediction: Prediction) -> None:
        """Write one image's results."""
        regions = ""
        if self._wanted.needs_maps and (number := len(prediction.regions)):
            regions = f"{number} region{'s' * (number > 1)}"
        verdict = "anomalous" if prediction.is_anomalous else "good"
        self._say(
            f"{verdict:<9} {prediction.score:8.3f}  {prediction.source}  {regions}".rstrip(),
            "red" if prediction.is_anomalous else None,
        )
        if self._file is not None:
            with naming(Path(self._file.name)):
                self._write_row(self._file, prediction)
        if self._wanted.folder is not None:
            self._write_images(self._wanted.folder, prediction)
        if self._wanted.picture is not None and len(self._drawn) < _MOST_IN_PICTURE:
            self._drawn.append(prediction)

    def _append(self, file: io.FileIO, text: str) -> None:
        """Add a line to the table, all of it or nothing: a part of a number is another number."""
        left = text.encode(errors="surrogateescape")
        length = self._length + len(left)
        try:
            while left:
                left = left[file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(self._length)
            raise
        self._length = length

    def _write_row(self, file: io.FileIO, prediction: Prediction) -> None:
        values: dict[str, Any] = {"path": prediction.source}
        values |= {name: getattr(prediction, name) for name in _COLUMNS[1:]}
        if self._wanted.has_regions:
            values["regions"] = [region.to_dict() for region in prediction.regions]
            self._append(file, json.dumps(values) + "\n")
        else:
            values["is_anomalous"] = str(prediction.is_anomalous).lower()
            self._append(file, _row(values.values()))

    def _write_images(self, folder: Path, prediction: Prediction) -> None:
        def target(kind: str, suffix: str) -> Path:
            path = folder / kind / f"{self._names[prediction.source]}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        if self._wanted.maps == "npy":
            buffer = io.BytesIO()
            np.save(buffer, prediction.anomaly_map)
            write_whole(target("maps", ".npy"), buffer.getvalue())
        elif self._wanted.maps == "png":
            thousandths = np.rint(prediction.anomaly_map * 1000).clip(0, 65535).astype(np.uint16)
            write_whole(target("maps", ".png"), _png(thousandths))
        if self._wanted.masks:
            write_whole(target("masks", ".png"), _png(prediction.mask.astype(np.uint8) * 255))
        if self._wanted.overlays:
            drawn = overlay(self._pixels_of(prediction.source), prediction)
            write_whole(target("overlays", ".png"), _png(drawn))

    def _draw(self, path: Path) -> None:
        from cflow_ad.evaluation.figures import Panel, draw_panels

        panels = []
        for prediction in self._drawn:
            # No font has the bytes that a file name may hold.
            title = Path(prediction.source).name.encode(errors="backslashreplace").decode()
            panels.append(Panel(prediction, self._pixels_of(prediction.source), title))
        at = self._drawn[0].map_threshold
        draw_panels(panels, map_threshold=at, scale=map_scale(at), path=path)


def _require_apart(images: Sequence[Path], target: Path) -> None:
    """See that no image lies where results are written: it could be overwritten."""
    there = Path(os.path.abspath(target))  # noqa: PTH100
    taken = next((image for image in images if image.is_relative_to(there)), None)
    if taken is not None:
        raise SettingsError(
            f"{target}: results are written there, but {taken} is one of the images; choose "
            "another place for the results"
        )


def _row(values: Iterable[object]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue()


def _png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
