"""Results as tables on the screen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cflow_ad.cflow.backbones import BackboneStatus
    from cflow_ad.cli.settings_help import SettingDescription
    from cflow_ad.data.check import Check
    from cflow_ad.evaluation.benchmark_summary import Summary
    from cflow_ad.evaluation.evaluate import Evaluation
    from cflow_ad.evaluation.metrics import PixelResult, ScoreMetrics


def print_evaluation(evaluation: Evaluation) -> None:
    """Metrics in percent, by defect type and in all, then the threshold and its false alarms."""
    title = f"{evaluation.dataset.name}: areas and F1 in percent"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("Defect", overflow="fold")
    for column in (
        "Images",
        "Found",
        "Image\nAUROC",
        "AP",
        "F1",
        "Pixel\nAUROC",
        "AP",
        "F1",
        "AUPRO",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, result in evaluation.per_defect.items():
        found = f"{result.recall * result.n_images:.0f}"
        table.add_row(name, str(result.n_images), found, *_percents(result.image, result.pixel))
    table.add_section()
    confusion = evaluation.confusion
    table.add_row(
        "all",
        str(confusion.tp + confusion.fn),
        str(confusion.tp),
        *_percents(evaluation.image, evaluation.pixel),
        style="bold",
    )
    reference = evaluation.reference
    if reference is not None:
        images = str(confusion.tp + confusion.fn)
        table.add_row("reference", images, "", *_percents(reference.image, reference.pixel))
    console = _console()
    console.print(table)
    if reference is not None:
        console.print(
            "reference: scored as the paper's code does, relative to the largest likelihood in "
            "this test set, at the network's input size."
        )
    alarms = evaluation.false_alarms
    if alarms.trials:
        low, high = alarms.interval
        console.print(
            f"Threshold {evaluation.threshold:.3f}: {alarms.count} false alarms on "
            f"{alarms.trials} good images ({_percent(alarms.rate)} %, 95 % interval "
            f"{_percent(low)} to {_percent(high)} %; promised {_percent(alarms.promised)} %)."
        )
    else:
        console.print(f"Threshold {evaluation.threshold:.3f}: no good images to test it on.")
    console.print(evaluation.detector["calibration"]["note"])


def print_benchmark(summary: Summary) -> None:
    """Areas beside what was published, for each backbone that is compared with."""
    from cflow_ad.evaluation.benchmark_page import (
        area_text,
        difference_text,
        failed,
        notes,
        spread_text,
    )
    from cflow_ad.evaluation.benchmark_summary import AREAS

    console = _console()
    for published, reference in (
        [(of, scored) for of in summary.references for scored in (False, True)]
        if summary.rows
        else []
    ):
        scores = "scored as the paper's code does" if reference else "areas in percent"
        title = f"MVTec AD: {scores}, beside the paper's {published.name}"
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False
        )
        table.add_column("Class", no_wrap=True)
        for area in AREAS:
            for column in (area[0].upper() + area[1:].replace(" ", "\n"), "Paper", "Diff."):
                table.add_column(column, justify="right", no_wrap=True)
        *lines, mean = summary.compare(published, reference=reference)
        for line in (*lines, None, mean):
            if line is None:
                table.add_section()
                continue
            cells = []
            for cell in line.cells:
                cells.append(area_text(cell.measured.mean) + spread_text(cell.measured, "\n±"))
                cells += [area_text(cell.published), difference_text(cell)]
            table.add_row(line.name, *cells, style="bold" if line is mean else None)
        console.print(table)
    for said in notes(summary):
        console.print(said)
    for said in failed(summary):
        console.print(f"Failed: {said}", style="red")


def print_backbones(backbones: Sequence[BackboneStatus]) -> None:
    """Which backbones are usable here."""
    table = Table()
    for column in ("Backbone", "Usable here", "Weights"):
        table.add_column(column)
    for item in backbones:
        table.add_row(item.name, "yes" if item.is_usable else "no", item.source)
    _console().print(table)


def print_settings(settings: Sequence[SettingDescription]) -> None:
    """Every setting with its default and meaning."""
    table = Table(show_lines=True)
    for column in ("Setting", "Default", "Meaning"):
        table.add_column(column)
    for item in settings:
        table.add_row(item.name, item.default, item.meaning)
    _console().print(table)


def print_model(metadata: Mapping[str, Any]) -> None:
    """What a model file says of itself."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for section, values in metadata.items():
        if section == "calibration" and values is None:
            table.add_row(section, "not calibrated yet: run `cflow-ad calibrate MODEL GOOD`")
        elif isinstance(values, Mapping):
            table.add_section()
            for name, value in values.items():
                table.add_row(f"{section}.{name}", _plain(value))
        else:
            table.add_row(section, _plain(values))
    _console().print(table)


def _console() -> Console:
    """Names are shown as they are: what is in brackets or colons is no markup."""
    return Console(markup=False, emoji=False, highlight=False)


def _percents(image: ScoreMetrics, pixel: PixelResult | None) -> list[str]:
    values = [image.auroc, image.average_precision, image.best_f1]
    if pixel is None:
        values += [math.nan] * 4
    else:
        values += [pixel.auroc, pixel.average_precision, pixel.best_f1, pixel.aupro]
    return [_percent(value) for value in values]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(each)}".rstrip() for name, each in value.items())
    return "" if value is None else str(value)


_MOST_FINDINGS = 10


def print_check(check: Check) -> None:
    """What a data set has in it, then what is wrong, then what is strange."""
    dataset = check.dataset
    typer.echo(f"{dataset.name}: {dataset.layout} layout, {dataset.root}")
    for split, counts in check.counts.items():
        said = ", ".join(f"{n} {label}" for label, n in counts.items())
        typer.echo(f"  {split:<6} {said or 'nothing'}")
    defective = sum(not sample.is_good for sample in dataset.test)
    if defective:
        typer.echo(f"  masks  {check.masks} of {defective} defective images have one")
    if check.regions:
        images = len(dataset.train) + len(dataset.test)
        typer.echo(f"  roi    {check.regions} of {images} images have one of their own")
    typer.echo(f"  sizes  {_sizes(check.sizes)}")
    modes = ", ".join(f"{n} {mode}" for mode, n in check.modes.most_common())
    typer.echo(f"  modes  {modes or 'none'}")
    for note in dataset.notes:
        typer.echo(f"  note   {note}")
    for findings, name, colour in (
        (check.errors, "error", "red"),
        (check.warnings, "warning", "yellow"),
    ):
        for kind in dict.fromkeys(finding.kind for finding in findings):
            of_kind = [finding for finding in findings if finding.kind == kind]
            for finding in of_kind[:_MOST_FINDINGS]:
                where = dataset.relative(finding.path)
                typer.secho(f"{name}: {where}: {finding.reason}", fg=colour)
            if (more := len(of_kind) - _MOST_FINDINGS) > 0:
                typer.secho(f"{name}: {more} more of this kind ({kind}); see --json", fg=colour)
    errors, warnings = len(check.errors), len(check.warnings)
    typer.echo(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """The commonest sizes, height x width."""
    most = [f"{n} of {height}x{width}" for (height, width), n in sizes.most_common(3)]
    if len(sizes) <= 3:
        return ", ".join(most) or "none"
    heights, widths = zip(*sizes, strict=True)
    return (
        f"{len(sizes)} different ones, {min(heights)} to {max(heights)} high, {min(widths)} to "
        f"{max(widths)} wide"
    )
