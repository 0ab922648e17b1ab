"""Parts that commands share: options, errors, warnings and progress."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cflow_ad.errors import (
    CalibrationWarning,
    CflowError,
    DataError,
    DepthWarning,
    DeviceWarning,
    ElsewhereError,
    FolderError,
    ModelFileError,
    SettingsError,
    SpaceError,
    missing_library,
)
from cflow_ad.files import is_full
from cflow_ad.settings import Settings

if TYPE_CHECKING:
    import rich.progress

    from cflow_ad.data.layouts import Dataset
    from cflow_ad.fitting.group import Group
    from cflow_ad.fitting.progress import Progress
    from cflow_ad.scoring.base import BaseDetector

FAILED = 2
"""Exit status of an error, and of a wrong command line."""

PRESET_HELP = "Settings to start from: fast, default, accurate or paper."
SETTING_HELP = "Another setting, as NAME=VALUE; `cflow-ad info settings` lists them. Repeatable."


def path_argument(help: str) -> Any:
    """Declare a required path; the code that reads it gives a better error than typer would."""
    return typer.Argument(help=help, show_default=False, readable=False)


ModelFile = Annotated[Path, path_argument("A model file, as trained or exported.")]
Trained = Annotated[Path, path_argument("A trained model file.")]
DataFolder = Annotated[
    Path, path_argument("Folder of good images, a data set in a known layout, or manifest CSV.")
]
ModelOutput = Annotated[
    Path, typer.Option("--output", "-o", help="The model file to write.", show_default=False)
]
NewFolder = Annotated[Path, path_argument("A new or empty folder.")]
Layout = Annotated[
    str | None,
    typer.Option(help="Layout of the data set on disk; see the manual. [default: recognised]"),
]
_FOLDER = "a name, a path in DATA, or a pattern; repeatable."
GoodFolders = Annotated[
    list[str] | None, typer.Option("--good", help=f"Folder of good images in DATA: {_FOLDER}")
]
BadFolders = Annotated[
    list[str] | None, typer.Option("--bad", help=f"Folder of defective images in DATA: {_FOLDER}")
]
MaskFolders = Annotated[
    list[str] | None, typer.Option("--masks", help=f"Folder of masks in DATA: {_FOLDER}")
]
Roi = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|CSV",
        help="Regions of interest: folder with a mask for each image, or manifest CSV with a "
        "column roi. Only pixels where the mask is white are scored.",
    ),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(
        "--work-folder",
        metavar="FOLDER",
        envvar="CFLOW_AD_WORK",
        help="Keep features and checkpoints there while training. [default: beside the model]",
        show_default=False,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32; tf32, faster on NVIDIA GPUs; or bf16, faster on processors with such "
        "instructions (AVX-512 BF16, AMX, GPUs). Scores differ by up to a tenth from those of the "
        "precision in which the threshold was set. [default: as trained]"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images encoded at once on a GPU.")]
Weights = Annotated[
    str | None, typer.Option(help="File with the backbone's weights (.safetensors, .pth).")
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to run, as torch names it (cpu, cuda). [default: a GPU if any]"),
]


Bits = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=16,
        help="Depth of images with 16 bits a value: with 12, white is 4095. [default: as trained]",
    ),
]
Page = Annotated[
    int | None,
    typer.Option(min=1, help="Image of a file that holds several, from 1. [default: as trained]"),
]
BayerPattern = Annotated[
    str | None,
    typer.Option(
        "--bayer",
        help="First two rows of a sensor's mosaic: rggb, bggr, grbg, gbrg; or none. "
        "[default: as trained]",
    ),
]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print an error that a person can fix as one line and exit with 2; warnings likewise."""
    with warnings.catch_warnings():
        for kind in (CalibrationWarning, DepthWarning, DeviceWarning):
            warnings.simplefilter("always", kind)
        warnings.showwarning = lambda text, *_, **__: print_message(f"warning: {text}", "yellow")
        try:
            yield
        except KeyboardInterrupt:
            print_message("stopped", "yellow")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of the output has closed it, as `head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except ElsewhereError:
            raise typer.Exit(FAILED) from None
        except Exception as error:
            if (text := _describe_error(error)) is None:
                raise
            print_message(f"error: {text}", "red")
            raise typer.Exit(FAILED) from None


@contextlib.contextmanager
def training_folder(
    model: Path, within: Path | None, *, resume: bool, group: Group | None = None
) -> Iterator[Path]:
    """Give the folder of features and checkpoints of a training that ends with `model` written.

    It is removed at the end, and where the disk is full; else what it holds is for `--resume`. The
    processes of a group that run on one machine share it.
    """
    from cflow_ad.fitting.fit import discard, work_folder
    from cflow_ad.fitting.group import ALONE

    group = group or ALONE
    work = work_folder(model, within)
    if not resume and group.is_first_here:
        discard(work)
    group.gather(None)
    try:
        yield work
        group.gather(None)
    except KeyboardInterrupt:
        if group.is_first_here:
            print_message("progress is kept: the same command with --resume continues")
        raise
    except ModelFileError:
        print_message("progress is kept: the same command with --resume writes the model")
        raise
    except (SpaceError, OSError) as error:
        if isinstance(error, SpaceError) or is_full(error):
            discard(work)
        raise
    if group.is_first_here:
        discard(work)


def _describe_error(error: Exception) -> str | None:
    """One line about an error that a person can fix; None for a fault of the program."""
    match error:
        case CflowError():
            return str(error)
        case ModuleNotFoundError():
            missing = missing_library(error)
            return None if missing is None else str(missing)
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return (
                f"{where}{error.strerror or error}; check the path, its permissions and the free "
                "space of the disk"
            )
    # Torch has an exception type for the memory of GPUs alone.
    full = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or full:
        return (
            "there is not enough memory; give a smaller --size or batch size, or another --device"
        )
    return None


def print_message(message: str, colour: str | None = None) -> None:
    """Print a message on standard error."""
    typer.secho(message, fg=colour, err=True)


def open_data(
    data: Path,
    layout: str | None,
    good: list[str] | None,
    bad: list[str] | None,
    masks: list[str] | None,
) -> Dataset:
    """Open a data set; an error about its folders' names shows the command that would work."""
    from cflow_ad.data.layouts import FolderNames, open_dataset

    try:
        return open_dataset(data, layout, FolderNames(good or (), bad or (), masks or ()))
    except FolderError as error:
        raise DataError(f"{error}, as in: {command_line(*error.options)}") from error


def command_line(*more: str) -> str:
    """Return the command that was given, with more arguments, as it is typed."""
    words = ["cflow-ad", *sys.argv[1:], *more]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def print_notes(dataset: Dataset) -> None:
    """Print remarks on how a data set was read."""
    for note in dataset.notes:
        print_message(f"{dataset.name}: {note}")


def open_model(
    path: Path, *, weights: str | None, device: str | None, precision: str | None, roi: str | None
) -> BaseDetector:
    """Load the detector of a model file of any format."""
    from cflow_ad.runtime.opening import open_detector

    detector = open_detector(path, weights=weights, device=device, precision=precision)
    return detector if roi is None else detector.look_in(roi)


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Parse settings given as `NAME=VALUE`."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise SettingsError(f"--set {text}: write NAME=VALUE, as in --set steps=300")
        values[name] = Settings.parse(name, value.strip())
    return values


def progress_bar(*, shown: bool = True) -> rich.progress.Progress:
    """A bar with count, rate and time left, on standard error if `shown`; removed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    console = Console(stderr=True)
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),  # in a narrow terminal this alone becomes shorter
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left"),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Bars:
    """A progress bar for each stage of a command."""

    _UNITS: dict[str, tuple[str, str]] = {  # noqa: RUF012
        "encode": ("Encoding", "images/s"),
        "train": ("Training", "steps/s"),
        "passes": ("Training", "images/s"),
        "calibrate": ("Calibrating", "images/s"),
        "evaluate": ("Evaluating", "images/s"),
        "compare": ("Comparing", "images/s"),
        "predict": ("Predicting", "images/s"),
        "weave": ("Weaving", "images/s"),
        "check": ("Checking", "images/s"),
        "write": ("Writing", "images/s"),
        "download": ("Downloading", "MB/s"),
        "verify": ("Checking", "MB/s"),
        "unpack": ("Unpacking", "MB/s"),
    }

    def __init__(self, bar: rich.progress.Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def show(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Update one stage, whose total may be unknown."""
        label, unit = self._UNITS[stage]
        if stage not in self._tasks:
            # A resumed stage starts above 0, which does not count for its rate.
            self._tasks[stage] = self._bar.add_task(
                label, total=total, completed=done, rate="", note=""
            )
            return
        task = next(task for task in self._bar.tasks if task.id == self._tasks[stage])
        rate = f"{task.speed:.1f} {unit}" if task.speed else ""
        self._bar.update(task.id, completed=done, total=total, rate=rate, note=note)

    def counter(self, stage: str) -> Callable[[int, int], None]:
        """Return a function that updates one stage."""
        return functools.partial(self.show, stage)

    def show_training(self, progress: Progress) -> None:
        """Update a stage of training."""
        note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        if progress.stride is not None:
            note += f" (stride {progress.stride})"
        self.show(progress.stage, progress.done, progress.total, note)

    def say(self, line: str, colour: str | None = None) -> None:
        """Print a line of output, above the bars if they are on the same screen."""
        if self._bar.disable or not sys.stdout.isatty():
            typer.secho(line, fg=colour)
        else:
            from rich.text import Text

            self._bar.console.print(Text(line, style=colour or ""), soft_wrap=True)


@contextlib.contextmanager
def bars(*, shown: bool = True) -> Iterator[Bars]:
    """Show progress bars while the block runs, then the warnings, which the bars would erase;
    nothing unless `shown`.
    """
    held: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as held, progress_bar(shown=shown) as bar:
            yield Bars(bar)
    finally:
        for warning in held if shown else []:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )
