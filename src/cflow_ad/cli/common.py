"""What the commands share: how errors, warnings and progress are shown."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cflow_ad.errors import CalibrationWarning, CflowError, SettingsError, missing_library

if TYPE_CHECKING:
    import rich.progress

    from cflow_ad import runtime
    from cflow_ad.data.layouts import Dataset
    from cflow_ad.detector import Detector
    from cflow_ad.fitting.progress import Progress
    from cflow_ad.settings import Settings

FAILED = 2
"""Exit status of an error, and of a wrong command line."""

UNCHECKED = False
"""For a path's `readable`: what reads the file says more of what is wrong than typer would."""

SETTING_HELP = "Any other setting, as NAME=VALUE; `cflow-ad info settings` lists them."
PRESET_HELP = "Settings to start from: fast, default, accurate or paper."
WEIGHTS_HELP = "File with the backbone's weights (.safetensors, .pth)."
LAYOUT_HELP = "How the data set lies on disk; see the guide. [default: recognised]"
TILE_HELP = (
    "The largest part of a large image encoded at once, HEIGHTxWIDTH or one number; a matter of "
    "memory, not of scores. 0 for none. [default: chosen]"
)
ROI_HELP = (
    "Folder with a mask for each image, or manifest CSV with a column roi: look only where a mask "
    "is not zero."
)
PRECISION_HELP = (
    "fp32, or bf16: faster where the processor has such instructions (AVX-512 BF16, AMX, GPUs). "
    "Scores differ by up to a tenth from those the threshold was set on in the other one. "
    "[default: that of training]"
)
COMPILE_HELP = (
    "Make code for this machine first, in about a minute (needs a C++ compiler); pays for "
    "thousands of images."
)
DEVICE_HELP = "Where to run, as torch names it (cpu, cuda); a GPU if there is one."


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that a person can mend into one line and status 2, and warnings into one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CalibrationWarning)
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}", "yellow")
        try:
            yield
        except CflowError as error:
            tell(f"error: {error}", "red")
            raise typer.Exit(FAILED) from None
        except ModuleNotFoundError as error:
            if (missing := missing_library(error)) is None:
                raise
            tell(f"error: {missing}", "red")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            tell("stopped", "yellow")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; there is no one left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            tell(
                "error: there is not enough memory; give a smaller --size or "
                "batch size, a --tile, or another --device",
                "red",
            )
            raise typer.Exit(FAILED) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            tell(
                f"error: {where}{error.strerror or error}; see that the path is right, that it may "
                "be written, and that the disk has room",
                "red",
            )
            raise typer.Exit(FAILED) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Torch has a type of its own only for GPUs; for the main memory it has a sentence."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def tell(message: str, colour: str | None = None) -> None:
    """Say something to the person, apart from the output proper."""
    typer.secho(message, fg=colour, err=True)


def tell_notes(dataset: Dataset) -> None:
    """Say what is particular about how a data set was read."""
    for note in dataset.notes:
        tell(f"{dataset.name}: {note}")


def open_model(
    path: Path,
    *,
    weights: str | None,
    device: str | None,
    tile: str | None,
    precision: str | None,
    compiled: bool,
    roi: str | None,
) -> Detector | runtime.Detector:
    """The detector of a model file of whatever format, as the options want it."""
    from cflow_ad.runtime.opening import open_detector

    detector = open_detector(
        path,
        weights=weights,
        device=device,
        tile=tile,
        precision=precision,
        compiled=compiled,
    )
    return detector if roi is None else detector.look_in(roi)


def make_settings(
    given: dict[str, object], others: list[str], *, preset: str = "default"
) -> Settings:
    """A preset changed by the options that were given, and by `NAME=VALUE` texts."""
    from cflow_ad.settings import Settings

    values = {name: value for name, value in given.items() if value is not None}
    return Settings.preset(preset, **{**values, **parse_settings(others)})


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """The values of settings given as `NAME=VALUE`."""
    from cflow_ad.settings import Settings

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise SettingsError(f"--set {text}: write NAME=VALUE, as in --set blocks=4")
        values[name] = Settings.parse(name, value.strip())
    return values


def progress_bar() -> rich.progress.Progress:
    """A bar with count, rate and time left, on standard error; gone when done."""
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
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Bars:
    """A progress bar for each stage of a command."""

    _UNITS: dict[str, tuple[str, str]] = {  # noqa: RUF012
        "encode": ("Encoding", "images/s"),
        "screen": ("Screening", "images/s"),
        "train": ("Training", "steps/s"),
        "passes": ("Training", "images/s"),
        "calibrate": ("Calibrating", "images/s"),
        "evaluate": ("Evaluating", "images/s"),
        "compare": ("Comparing", "images/s"),
        "predict": ("Predicting", "images/s"),
        "weave": ("Weaving", "images/s"),
        "check": ("Checking", "images/s"),
        "write": ("Writing", "images/s"),
        "frames": ("Extracting", "frames/s"),
        "download": ("Downloading", "MB/s"),
        "verify": ("Checking", "MB/s"),
        "unpack": ("Unpacking", "MB/s"),
    }

    def __init__(self, bar: rich.progress.Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def show(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Bring one stage up to date."""
        label, unit = self._UNITS[stage]
        if stage not in self._tasks:
            # A resumed stage begins where it was left: only what is done now counts for the rate.
            self._tasks[stage] = self._bar.add_task(
                label, total=total, completed=done, rate="", note=""
            )
            return
        task = next(task for task in self._bar.tasks if task.id == self._tasks[stage])
        rate = f"{task.speed:.1f} {unit}" if task.speed else ""
        self._bar.update(task.id, completed=done, rate=rate, note=note)

    def restart(self) -> None:
        """Take the bars away: the same stages are to come again."""
        for task in self._tasks.values():
            self._bar.remove_task(task)
        self._tasks.clear()

    def show_training(self, progress: Progress) -> None:
        """Bring a stage of training up to date."""
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
def bars() -> Iterator[Bars]:
    """Progress bars while the block runs; after it the warnings, which the bars would wipe out."""
    held: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as held, progress_bar() as bar:
            yield Bars(bar)
    finally:
        for warning in held:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )
