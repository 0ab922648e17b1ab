"""Score an archive shard by shard: every image once, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cflow_ad._version import __version__
from cflow_ad.data.images import ImageSource
from cflow_ad.errors import DataError, ImageError, optional_library
from cflow_ad.fleet.archive import Archive, Shard
from cflow_ad.fleet.decoding import ReadyView, Source, decode_in_threads, decode_on_ray
from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.objects import Folder, is_url
from cflow_ad.fleet.pool import Pool, run_tasks
from cflow_ad.fleet.reading import read_shard
from cflow_ad.runtime.opening import describe, files_of, is_exported, open_detector
from cflow_ad.scoring.base import BaseDetector

ABOUT = "_about.json"
"""The file that says what a folder of results is of. Readers of Parquet skip such names."""

REPLACED = "_replaced"
"""The sub-folder for results of shards that have changed since."""

PER_SHARD = 1000


@dataclass(frozen=True)
class Scoring:
    """What to score, with what, and how."""

    archive: str
    """A folder, a URL or a file, as for `Archive`."""
    model: Path
    out: Path
    """The folder of results, which all workers can write."""
    per_shard: int = PER_SHARD
    """Single images in a shard, about."""
    image_column: str | None = None
    """Of Parquet files; unset, recognised."""
    decoders: int = 0
    """Threads or Ray tasks that decode for each worker; with 0, the worker decodes itself."""
    batch_size: int = 8
    """The most images at once on a GPU."""
    device: str | None = None


@dataclass(frozen=True)
class ShardScored:
    """What came of a shard."""

    shard: str
    counts: dict[str, int] = field(default_factory=dict)
    is_new: bool = False
    """Whether it was scored now, and not in an earlier run."""
    error: str = ""


@dataclass
class Scorer:
    """Scores one shard after another, in a worker.

    Args:
        scoring: what is wanted.
        files: of the model, by name.
        threads: cores of the worker.
        on_ray: whether it is a Ray actor.
    """

    scoring: Scoring
    files: dict[str, bytes]
    threads: int
    on_ray: bool
    _detector: BaseDetector | None = None

    def __call__(self, shard: Shard) -> tuple[dict[str, int], bool]:
        """Score a shard, or find that its results are there; return counts, and whether it is new.

        Raises:
            CflowError: the shard cannot be read.
        """
        from cflow_ad.fleet.results import read_counts, write_results

        path = self.scoring.out / f"{shard.name}.parquet"
        if (found := read_counts(path)) is not None:
            return vars(found), False
        self._detector = self._detector or self._load()
        about = {
            "model": _hash(self.files),
            "threshold": repr(self._detector.threshold),
            "cflow_ad": __version__,
        }
        counts = write_results(path, self._rows(self._detector, shard), about)
        return vars(counts), True

    def _load(self) -> BaseDetector:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            path = Path(folder) / next(iter(self.files))
            if is_exported(path):
                from cflow_ad.runtime.detector import Detector

                device = None if self.scoring.device == "cpu" else self.scoring.device
                detector: BaseDetector = Detector.load(path, device=device, threads=self.threads)
            else:
                detector = open_detector(path, device=self.scoring.device)
        detector.view = ReadyView.from_view(detector.view)
        return detector

    def _rows(self, detector: BaseDetector, shard: Shard) -> Iterator[dict[str, Any]]:
        from cflow_ad.fleet.results import row_of

        waiting: deque[Source] = deque()
        errors: dict[int, str] = {}

        def note(source: ImageSource, error: ImageError) -> None:
            errors[id(source)] = str(error)

        def sources() -> Iterator[Source]:
            for source in self._sources(detector, shard):
                waiting.append(source)
                yield source

        def unreadable() -> Iterator[dict[str, Any]]:
            while waiting and id(waiting[0]) in errors:
                source = waiting.popleft()
                yield row_of(source.name, None, errors.pop(id(source)))

        for prediction in detector.stream(
            sources(), maps=False, batch_size=self.scoring.batch_size, on_error=note
        ):
            # Results come in the order of the images.
            yield from unreadable()
            yield row_of(waiting.popleft().name, prediction)
        yield from unreadable()

    def _sources(self, detector: BaseDetector, shard: Shard) -> Iterable[Source]:
        archive = Archive(self.scoring.archive)
        items = read_shard(archive, shard, image_column=self.scoring.image_column)
        if not self.scoring.decoders:
            return map(Source, items)
        apart = decode_on_ray if self.on_ray else decode_in_threads
        return apart(items, detector.view, self.scoring.decoders)


def score_archive(
    scoring: Scoring,
    engine: Engine,
    *,
    attempts: int = 3,
    opened: Callable[[Pool], None] = lambda pool: None,
) -> Iterator[ShardScored]:
    """Score the shards of an archive whose results are not there yet.

    At the end results of shards that have changed are moved to the sub-folder `_replaced`.

    Args:
        scoring: what is wanted.
        engine: where to run.
        attempts: how often a shard is tried whose error may not come again.
        opened: called with the pool of workers.

    Yields:
        What came of each shard, in the order in which they end.

    Raises:
        CflowError: archive, model or engine cannot be used; or the folder of results has those of
            another archive or model.
    """
    with optional_library():
        import cflow_ad.fleet.results  # noqa: F401 (needs pyarrow)
    archive = Archive(scoring.archive)
    files = _read_model(scoring.model)
    _prepare(scoring, files)
    names: set[str] = set()
    failed = False

    def shards() -> Iterator[Shard]:
        for shard in archive.shards(scoring.per_shard):
            names.add(shard.name)
            yield shard

    def build(threads: int) -> Callable[[], Scorer]:
        return partial(Scorer, scoring, files, threads, engine.name == "ray")

    with engine.open(build) as pool:
        opened(pool)
        for outcome in run_tasks(pool, shards(), attempts=attempts):
            if outcome.failure is not None:
                failed = True
                yield ShardScored(outcome.task.name, error=outcome.failure.reason)
            else:
                counts, is_new = outcome.value
                yield ShardScored(outcome.task.name, counts, is_new)
    if not names:
        raise DataError(f"{scoring.archive}: no images, tar or Parquet files there")
    if not failed:
        _set_aside(scoring.out, names)


def _read_model(path: Path) -> dict[str, bytes]:
    """Read the files of a model, after checking that it can be used."""
    describe(path)
    return {file.name: file.read_bytes() for file in files_of(path)}


def _hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for data in files.values():
        digest.update(data)
    return digest.hexdigest()


def _prepare(scoring: Scoring, files: dict[str, bytes]) -> None:
    """Claim the folder of results for one archive and one model."""
    from cflow_ad.fleet.results import UNFINISHED

    out, place = scoring.out, scoring.archive
    if not is_url(place):
        place = str(Path(place).resolve())
        if out.resolve().is_relative_to(place):
            raise DataError(f"{out}: this folder lies in the archive; name one elsewhere")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder")
    about = {"archive": place, "model": _hash(files), "per_shard": scoring.per_shard}
    text = json.dumps(about, indent=1, sort_keys=True).encode()
    if not Folder(out).create(ABOUT, text):
        there = json.loads((out / ABOUT).read_bytes())
        what = next((name for name in about if about[name] != there.get(name)), "archive")
        raise DataError(
            f"{out}: it has the results of another {what.replace('per_shard', 'size of shards')}; "
            "name another folder"
        )
    for left in out.glob(f".*{UNFINISHED}"):
        left.unlink(missing_ok=True)


def _set_aside(out: Path, names: set[str]) -> None:
    for path in out.glob("*.parquet"):
        if path.stem not in names:
            (out / REPLACED).mkdir(exist_ok=True)
            path.replace(out / REPLACED / path.name)
