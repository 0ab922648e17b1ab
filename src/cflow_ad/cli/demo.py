"""`cflow-ad demo`: train and evaluate on a generated carpet, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import plain_errors, print_message
from cflow_ad.errors import DataError


def demo(
    output: Annotated[
        Path, typer.Argument(help="A new or empty folder, or that of an earlier demo.")
    ] = Path("cflow-ad-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
) -> None:
    """Generate a carpet, train on its good images, evaluate on its defects, and report."""
    with plain_errors():
        from cflow_ad.cli.tables import print_evaluation
        from cflow_ad.data.carpet import write_carpet
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.detector import Detector
        from cflow_ad.evaluation.evaluate import evaluate
        from cflow_ad.evaluation.results import write_results
        from cflow_ad.settings import Settings

        data, model = output / "carpet", output / "carpet.safetensors"
        if data.exists() and not model.exists():
            raise DataError(f"{output}: an interrupted demo; delete it and try again")
        with bars() as shown:
            if not data.exists():
                write_carpet(data, seed=seed, progress=shown.counter("weave"))
            dataset = open_dataset(data)
            detector = Detector.fit(dataset, Settings(seed=seed), progress=shown.show_training)
            detector.save(model)
            evaluation = evaluate(detector, dataset, progress=shown.counter("evaluate"))
        written = write_results(evaluation, detector, output / "evaluation")
        print_evaluation(evaluation)
        print_message("The carpet, the model, the figure and the report:")
        for path in (data, model, *written):
            typer.echo(path)
