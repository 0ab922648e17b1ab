"""Results as printed tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cflow_ad.evaluation._wording import (
    count,
    describe_lowest,
    list_operations,
    metric,
    percent,
    plain,
    sections,
)

if TYPE_CHECKING:
    from cflow_ad.data.check import Check
    from cflow_ad.evaluation.evaluation import Evaluation
    from cflow_ad.evaluation.metrics import PixelResult, ScoreMetrics


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the metrics by defect type and of all, then the threshold and its false alarms."""
    columns = ["Image\nAUROC", "AP", "F1", "Pixel\nAUROC", "AP", "F1", "AUPRO"]
    confusion, reference = evaluation.confusion, evaluation.reference
    alarms = evaluation.false_alarms
    rows = []
    for name, result in evaluation.per_defect.items():
        found = f"{result.recall * result.n_images:.0f}"
        rows.append([name, str(result.n_images), found, *_metrics(result.image, result.pixel)])
    n_defect = str(confusion.tp + confusion.fn)
    last = ["all", n_defect, str(confusion.tp), *_metrics(evaluation.image, evaluation.pixel)]
    if reference is not None:
        rows.append(["reference", n_defect, "", *_metrics(reference.image, reference.pixel)])
    title = f"{evaluation.dataset.name}: areas and F1 in percent"
    print_table(["Defect", "Images", "Found", *columns], [*rows, last], title)
    console = _console()
    if reference is not None:
        console.print(
            "reference: scored as the paper's code does, relative to the largest likelihood in "
            "this test set, at the network's input size."
        )
    if alarms.trials:
        low, high = map(percent, alarms.interval)
        console.print(
            f"Threshold {evaluation.threshold:.3f}: {count(alarms.count, 'false alarm')} on "
            f"{count(alarms.trials, 'good image')} ({percent(alarms.rate)}, "
            f"95% interval {low} to {high}; promised {percent(alarms.promised)})."
        )
    else:
        console.print(f"Threshold {evaluation.threshold:.3f}: no good test images.")
    console.print(evaluation.detector["calibration"]["note"])
    if rows := list_operations(evaluation):
        header = ["Threshold", "Found", "95% interval", "False alarms", "95% interval"]
        print_table(header, rows, "Other thresholds on these test images")
        console.print(describe_lowest(evaluation))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a table of numbers; the first column is text."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def print_list(items: Sequence[Mapping[str, Any]]) -> None:
    """Print items of one kind, with a column for each of their fields."""
    table = Table(show_lines=True)
    for name in items[0]:  # folded, since a name that is cut short cannot be copied
        table.add_column(name.replace("_", " ").capitalize(), overflow="fold")
    for item in items:
        table.add_row(*map(plain, item.values()))
    _console().print(table)


def print_model(metadata: Mapping[str, Any]) -> None:
    """Print the metadata of a model file."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    known = {name: value for name, value in metadata.items() if value is not None}
    for section, values in sections(known).items():
        table.add_section()
        for name, value in values.items():
            table.add_row(name if section == "model" else f"{section}.{name}", value)
    if metadata.get("calibration") is None:
        table.add_row("calibration", "not calibrated yet: run `cflow-ad calibrate MODEL GOOD`")
    _console().print(table)


def _console() -> Console:
    """A console that prints names as they are, without markup."""
    return Console(markup=False, emoji=False, highlight=False)


def _metrics(image: ScoreMetrics, pixel: PixelResult | None) -> list[str]:
    names = ("auroc", "average_precision", "best_f1")
    cells = [metric(getattr(of, name, None)) for of in (image, pixel) for name in names]
    return [*cells, metric(getattr(pixel, "aupro", None))]


_MOST_FINDINGS = 10


def print_check(check: Check) -> None:
    """Print the contents of a data set, then errors, then warnings."""
    dataset = check.dataset
    typer.echo(f"{dataset.name}: {dataset.layout} layout, {dataset.root}")
    for split, counts in check.counts.items():
        of_split = ", ".join(f"{n} {label}" for label, n in counts.items())
        typer.echo(f"  {split:<6} {of_split or 'nothing'}")
    if defective := sum(not sample.is_good for sample in dataset.test):
        typer.echo(f"  masks  {check.masks} of {defective} defective images have one")
    if check.regions:
        images = len(dataset.train) + len(dataset.test)
        typer.echo(f"  roi    {check.regions} of {images} images have one of their own")
    typer.echo(f"  sizes  {_sizes(check.sizes)}")
    modes = ", ".join(f"{n} {mode}" for mode, n in check.modes.most_common())
    typer.echo(f"  modes  {modes or 'none'}")
    typer.echo(f"  depth  {check.depth.note}")
    for note in dataset.notes:
        typer.echo(f"  note   {note}")
    kinds = ((check.errors, "error", "red"), (check.warnings, "warning", "yellow"))
    for findings, name, colour in kinds:
        for kind in dict.fromkeys(finding.kind for finding in findings):
            of_kind = [finding for finding in findings if finding.kind == kind]
            for finding in of_kind[:_MOST_FINDINGS]:
                where = dataset.relative(finding.path)
                typer.secho(f"{name}: {where}: {finding.reason}", fg=colour)
            if (more := len(of_kind) - _MOST_FINDINGS) > 0:
                typer.secho(f"{name}: {more} more of this kind ({kind}); see --json", fg=colour)
    typer.echo(f"{count(len(check.errors), 'error')}, {count(len(check.warnings), 'warning')}")


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """The most frequent sizes, height x width."""
    most = [f"{n} of {height}x{width}" for (height, width), n in sizes.most_common(3)]
    if len(sizes) <= 3:
        return ", ".join(most) or "none"
    heights, widths = zip(*sizes, strict=True)
    return (
        f"{len(sizes)} different ones, {min(heights)} to {max(heights)} high, {min(widths)} to "
        f"{max(widths)} wide"
    )
