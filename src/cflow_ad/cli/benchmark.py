"""`cflow-ad benchmark`: public data sets, beside published results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import parse_settings, plain_errors
from cflow_ad.cli.options import PRESET_HELP, SETTING_HELP, Device, path_argument
from cflow_ad.errors import DataError, TrainingError
from cflow_ad.settings import Settings

SOME_FAILED = 3

app = typer.Typer(no_args_is_help=True, help="Measure on public data sets.")
app.callback()(lambda: None)  # else the only command would have no name


@app.command()
def mvtec(
    data: Annotated[Path, path_argument("The folder of MVTec AD.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes, separated by commas: bottle,carpet. [default: all in the folder]"
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help=f"{PRESET_HELP} `paper` also takes the paper's input sizes.")
    ] = "default",
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings for each class.")] = 3,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="NAME=VALUE", help=SETTING_HELP)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "benchmark-mvtec"
    ),
    device: Device = None,
) -> None:
    """Train and evaluate on the classes of MVTec AD, beside the results of the CFLOW-AD paper.

    Writes CLASS-SEED.json after each run and results.md at the end. A run whose file is there is
    skipped, so the same command continues after an interruption. The column `ref.` has the metrics
    of the same model, with the scores of the paper's code.

    Exit status: 0, all classes are measured; 2, an error; 3, at least one class failed.
    """
    with plain_errors():
        given = parse_settings(setting or [])
        settings = Settings.preset(preset, **given)
        wanted = [] if classes is None else [name.strip() for name in classes.split(",")]

        from cflow_ad.cli.tables import print_table
        from cflow_ad.evaluation import benchmark as bench
        from cflow_ad.files import make_folder

        paper_size = preset == "paper" and "size" not in given
        runs = {
            output / f"{name}-{seed}.json": (
                name,
                folder,
                bench.adapt_settings(name, settings, seed, paper_size=paper_size),
            )
            for name, folder in bench.find_classes(data, wanted).items()
            for seed in range(settings.seed, settings.seed + seeds)
        }
        make_folder(output)
        results = {file: bench.read_result(file, run[-1]) for file, run in runs.items()}
        failures = []
        for file in [file for file, result in results.items() if result is None]:
            name = f"{runs[file][0]}, seed {runs[file][-1].seed}"
            with bars() as shown:
                shown.say(name)
                try:
                    results[file] = bench.measure(
                        *runs[file],
                        file,
                        device=device,
                        training=shown.show_training,
                        evaluating=shown.counter("evaluate"),
                    )
                except (DataError, TrainingError) as error:
                    shown.say(f"failed: {error}", "red")
                    failures.append(f"{name}: {error}")
        if rows := bench.build_table([result for result in results.values() if result]):
            print_table(bench.HEADER, rows, "MVTec AD: areas in percent")
        bench.write_markdown(output / "results.md", rows, failures)
        typer.echo(output / "results.md")
        if failures:
            raise typer.Exit(SOME_FAILED)
