"""`cflow-ad benchmark`: public data sets, beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cflow_ad.cli.common import (
    DEVICE_HELP,
    SETTING_HELP,
    UNCHECKED,
    Bars,
    bars,
    parse_settings,
    plain_errors,
    tell,
)

if TYPE_CHECKING:
    from cflow_ad.evaluation.benchmark import Watcher

SOME_FAILED = 3

app = typer.Typer(no_args_is_help=True, help="Measure on public data sets.")


@app.callback()
def _benchmark() -> None:
    pass


@app.command()
def mvtec(
    data: Annotated[
        Path,
        typer.Argument(
            help="The folder of MVTec AD, or of one of its classes.",
            show_default=False,
            readable=UNCHECKED,
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(help="Which, as in bottle,carpet. [default: all that are there]"),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Settings to begin with; paper also takes the paper's sizes.")
    ] = "default",
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each class.")] = 3,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="NAME=VALUE", help=SETTING_HELP)
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; gone on with.")
    ] = Path("benchmark-mvtec"),
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Train and evaluate on every class of MVTec AD, beside the figures of the CFLOW-AD paper.

    Each class is written when it is finished; the same command goes on after an interruption, or
    with more classes and seeds. The last step's model is measured. Writes benchmark.md,
    benchmark.json and pictures.

    Exit status: 0, all is measured; 2, nothing could be done; 3, at least one class failed (the
    others are done).
    """
    with plain_errors():
        from cflow_ad.settings import Settings

        given = parse_settings(setting or [])
        settings = Settings.preset(preset, **given)
        wanted = [] if classes is None else [name.strip() for name in classes.split(",")]

        from cflow_ad.cli.tables import print_benchmark
        from cflow_ad.evaluation.benchmark import Benchmark, find_classes

        folders = find_classes(data, wanted)
        paper_sizes = preset == "paper" and "size" not in given
        benchmark = Benchmark(output, settings, paper_sizes=paper_sizes)
        try:
            with bars() as shown:
                summary = benchmark.run(folders, seeds, device=device, watcher=_watcher(shown))
        except KeyboardInterrupt:
            tell("what was done is kept: the same command goes on from there")
            raise
        print_benchmark(summary)
        for path in (
            output / "benchmark.md",
            output / "benchmark.json",
            *benchmark.pictures.values(),
        ):
            typer.echo(path)
        if summary.failures:
            raise typer.Exit(SOME_FAILED)


def _watcher(shown: Bars) -> Watcher:
    from cflow_ad.evaluation.benchmark import Job, Watcher
    from cflow_ad.evaluation.benchmark_page import area_text
    from cflow_ad.evaluation.benchmark_summary import AREAS, Failure, Row
    from cflow_ad.fitting.progress import Progress

    class Shown(Watcher):
        def begin(self, job: Job, number: int, total: int) -> None:
            shown.restart()
            shown.say(f"{job.name}, seed {job.settings.seed} ({number} of {total})")

        def training(self, progress: Progress) -> None:
            shown.show_training(progress)

        def evaluating(self, done: int, total: int) -> None:
            shown.show("evaluate", done, total)

        def end(self, outcome: Row | Failure) -> None:
            if isinstance(outcome, Failure):
                shown.say(f"failed: {outcome.reason}", "red")
                return
            areas = zip(AREAS, outcome.areas, strict=True)
            said = ", ".join(f"{name} {area_text(area)}" for name, area in areas)
            shown.say(f"{said} ({sum(outcome.seconds):.0f} s)")

    return Shown()
