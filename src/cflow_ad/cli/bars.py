"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import rich.progress

    from cflow_ad.fitting.progress import Progress


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
