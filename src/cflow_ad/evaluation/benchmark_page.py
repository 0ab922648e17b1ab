"""A benchmark as a page of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from cflow_ad.evaluation._wording import DASH, count, percent
from cflow_ad.evaluation.benchmark_summary import AREAS, Cell, Spread, Summary, is_official
from cflow_ad.evaluation.published import Published
from cflow_ad.settings import Settings

_REFERENCE = (
    "The same models, scored relative to the largest likelihood in the whole test set, at the "
    "network's input size. No single image can be scored so."
)


def to_markdown(summary: Summary, pictures: Mapping[str, str] | None = None) -> str:
    """The whole page.

    Args:
        summary: of what is finished.
        pictures: of classes, as paths relative to the page.
    """
    parts = [f"# CFLOW-AD on MVTec AD\n\n{' '.join(_about(summary))}"]
    if summary.rows:
        parts += [
            f"## Beside the paper's {published.name}\n\n{_areas(summary, published)}"
            for published in summary.references
        ]
        parts += [
            f"## Scored as the paper's code does, beside its {published.name}\n\n{_REFERENCE}\n\n"
            + _areas(summary, published, reference=True)
            for published in summary.references
        ]
        parts.append(f"## At the stored threshold\n\n{_alarms(summary)}")
    else:
        parts.append("No class is finished yet.")
    if summary.failures:
        parts.append("## Failed\n\n" + "\n".join(f"- {said}" for said in failed(summary)))
    parts += [
        f"## {name.replace('_', ' ').capitalize()}\n\n![{name}]({path})\n\n"
        "Above, the true outlines; in the middle, the anomaly maps; below, what is found at the "
        "threshold that has the best F1 on the test images, used for this picture alone."
        for name, path in (pictures or {}).items()
    ]
    return "\n\n".join(parts) + "\n"


def failed(summary: Summary) -> list[str]:
    """What failed, and why, in a line each."""
    return [f"{each.name}, seed {each.seed}: {each.reason}" for each in summary.failures]


def notes(summary: Summary) -> list[str]:
    """What keeps the numbers from being compared, in sentences."""
    said = []
    if other := [name for name, rows in summary.by_class.items() if not is_official(rows[0])]:
        said.append(
            f"By their number, the images of {', '.join(other)} are not those of MVTec AD: what "
            "was published does not compare."
        )
    if summary.absent:
        said.append(f"Left out: {', '.join(summary.absent)}.")
    return said


def area_text(value: float | None) -> str:
    """An area in percent; a dash where it is undefined.

    >>> area_text(98.5), area_text(None)
    ('98.50', '–')
    """
    return DASH if value is None else f"{value:.2f}"


def spread_text(spread: Spread, before: str = " ± ") -> str:
    """The deviation, after a sign; empty where there is none.

    >>> spread_text(Spread(98.5, 0.123)), spread_text(Spread(98.5, None))
    (' ± 0.12', '')
    """
    return "" if spread.deviation is None else f"{before}{spread.deviation:.2f}"


def difference_text(cell: Cell) -> str:
    """How much better than published, with its sign."""
    return DASH if cell.difference is None else f"{cell.difference:+.2f}"


def _about(summary: Summary) -> list[str]:
    usual = Settings(seed=summary.settings.seed).to_dict()
    other = [
        f"`{name}={_plain(value)}`"
        for name, value in summary.settings.to_dict().items()
        if value != usual[name] and not (name == "size" and summary.paper_sizes)
    ]
    settings = f"the defaults but for {', '.join(other)}" if other else "the defaults"
    sizes = ", each class at the size it has in the paper" if summary.paper_sizes else ""
    said = [f"cflow-ad {summary.version}; settings: {settings}{sizes}."]
    if summary.rows:
        weights = " and ".join(sorted({row.weights for row in summary.rows}))
        machines = " and ".join(sorted({row.machine for row in summary.rows}))
        said.append(f"Backbone {weights}; {machines}.")
    return [
        *said,
        "Areas in percent, at the images' own size, AUPRO to a false positive rate of 0.3; ± is "
        "the standard deviation over seeds.",
        "The last step's model; nothing is selected on test images. (The paper's figures are "
        "those of its best epoch on the test images, for each metric its own.)",
        *notes(summary),
    ]


def _areas(summary: Summary, published: Published, *, reference: bool = False) -> str:
    head = ["class", "seeds"]
    for area in AREAS:
        head += [area, "paper", "difference"]
    body = []
    for line in summary.compare(published, reference=reference):
        rows = summary.by_class.get(line.name)
        cells = [line.name, str(len(rows))] if rows else [f"**{line.name}**", ""]
        for cell in line.cells:
            cells += [
                area_text(cell.measured.mean) + spread_text(cell.measured),
                area_text(cell.published),
                difference_text(cell),
            ]
        body.append(cells)
    return _table(head, body)


def _alarms(summary: Summary) -> str:
    head = ["class", "size", "train images", "found", "false alarms", "promised", "train s"]
    body = []
    for name, rows in summary.by_class.items():
        counts = rows[0].counts
        found = statistics.fmean(row.found for row in rows)
        alarms = statistics.fmean(row.false_alarms for row in rows)
        promised = [row.promised for row in rows if row.promised is not None]
        body.append(
            [
                name,
                rows[0].size,
                str(counts.train),
                f"{found:.4g} / {counts.test_defect}",
                f"{alarms:.4g} / {counts.test_good}",
                percent(statistics.fmean(promised)) if promised else DASH,
                f"{statistics.fmean(row.seconds[0] for row in rows):.0f}",
            ]
        )
    seeds = count(len({row.seed for row in summary.rows}), "seed")
    return f"Images, means over {seeds}.\n\n{_table(head, body)}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
