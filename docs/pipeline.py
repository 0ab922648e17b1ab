"""Draw `pipeline.svg`, the drawing of the method in the README.

    python docs/pipeline.py

The file is plain SVG with a style for light and one for dark pages, on a card of its own.
"""

from __future__ import annotations

import math
from pathlib import Path

WIDTH, HEIGHT = 1000, 460
DEFECT = (0.64, 0.36)  # of the drawn image: right and down, as fractions
LEVELS = ((8, 12), (16, 6), (32, 3))  # stride, and positions along a side, as drawn
MIDDLE = 218
ROWS = (MIDDLE - 110, MIDDLE, MIDDLE + 110)  # centres of the levels
MEMORY = 16  # stride of the level that has one

STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif;
         font-size: 13px; fill: #24292f; text-anchor: middle; }
  .head { font-size: 15px; font-weight: 600; }
  .note { font-size: 12px; fill: #57606a; }
  .left { text-anchor: start; }
  .card { fill: #ffffff; stroke: #d0d7de; }
  .box { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5; }
  .cell { fill: #f6f8fa; stroke: #8c959f; stroke-width: 0.7; }
  .frame { fill: none; stroke: #57606a; stroke-width: 1.2; }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .tip { fill: #57606a; }
  .part { fill: #d8dee4; }
  .thread { stroke: #8c959f; stroke-width: 1.4; }
  .defect { fill: none; stroke: #cf222e; stroke-width: 3.5; stroke-linecap: round; }
  .wave { fill: none; stroke: #8250df; stroke-width: 1.6; }
  .condition { fill: none; stroke: #8250df; stroke-width: 1.5; }
  .purple { fill: #8250df; }
  .heat { fill: #cf222e; }
  .good { fill: #0969da; }
  .way { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 3 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note { fill: #9da7b3; }
    .card { fill: #0d1117; stroke: #30363d; }
    .box { fill: #0c2d6b; stroke: #58a6ff; }
    .cell { fill: #161b22; stroke: #6e7681; }
    .frame { stroke: #9da7b3; }
    .arrow { stroke: #9da7b3; }
    .tip { fill: #9da7b3; }
    .part { fill: #2d333b; }
    .thread { stroke: #6e7681; }
    .defect { stroke: #ff7b72; }
    .wave { stroke: #bc8cff; }
    .condition { stroke: #bc8cff; }
    .purple { fill: #bc8cff; }
    .heat { fill: #ff7b72; }
    .good { fill: #58a6ff; }
    .way { stroke: #ff7b72; }
  }
"""


def main() -> None:
    """Write the drawing beside this file."""
    parts = [
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
        *headings(),
        *image(26, MIDDLE, 104),
        text(78, MIDDLE + 70, "with a defect", "note"),
        arrow(134, MIDDLE, 156),
        *encoder(160, MIDDLE),
    ]
    for (stride, cells), y in zip(LEVELS, ROWS, strict=True):
        parts += [
            arrow(242, y, 274),
            *grid(280, y, 76, cells, heat=False),
            text(318, y + 54, f"stride {stride}: z", "note"),
            arrow(362, y, 452),
            *(memory(456, y) if stride == MEMORY else flow(456, y)),
            arrow(578, y, 640),
            *grid(646, y, 76, cells, heat=True),
            text(684, y + 54, "−distance" if stride == MEMORY else "log p(z | c)", "note"),
            arrow(728, y, 788, to=MIDDLE),
        ]
    parts += condition(407, 408)
    parts += [
        *grid(794, MIDDLE, 112, 28, heat=True),
        text(850, MIDDLE + 74, "joined, one value a pixel", "note"),
        text(850, MIDDLE + 92, "score: the highest of each level", "note"),
        arrow(910, MIDDLE, 936),
        text(966, MIDDLE - 4, "score,"),
        text(966, MIDDLE + 13, "mask"),
    ]
    body = "\n".join(f"  {part}" for part in parts)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="An image passes a frozen encoder to a feature pyramid of three levels. The '
        "levels of stride 8 and 32 have a flow, conditioned on the position; that of stride 16 has "
        "a memory of good vectors. Each says how likely every feature vector is. The levels are "
        'joined to one anomaly map. The highest values of each give the score.">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )
    Path(__file__).with_suffix(".svg").write_text(svg, encoding="utf-8")


def headings() -> list[str]:
    """Name each stage, above it."""
    stages = (
        (78, "image"),
        (201, "encoder"),
        (318, "feature pyramid"),
        (517, "flow or memory"),
        (684, "likelihood"),
        (850, "map"),
    )
    return [text(x, 38, name, "head") for x, name in stages]


def text(x: float, y: float, content: str, style: str = "") -> str:
    """Write a line of text about its centre, or from its left with the style `left`."""
    return f'<text class="{style}" x="{x}" y="{y}">{content}</text>'


def arrow(start: float, y: float, end: float, *, to: float | None = None) -> str:
    """Draw an arrow to the right, ending at the height `to`."""
    to = y if to is None else to
    middle = (start + end) / 2
    return (
        f'<path class="arrow" d="M{start} {y} C{middle} {y} {middle} {to} {end - 7} {to}"/>'
        f'<path class="tip" d="M{end} {to} l-9 -4.5 v9 z"/>'
    )


def image(x: float, y: float, side: float) -> list[str]:
    """Draw a woven surface with a scratch."""
    top = y - side / 2
    lines = []
    for number in range(1, 9):
        at = number * side / 9
        lines.append(
            f'<path class="thread" d="M{x + at:.1f} {top} v{side} M{x} {top + at:.1f} h{side}"/>'
        )
    u, v = x + DEFECT[0] * side, top + DEFECT[1] * side
    return [
        f'<rect class="part" x="{x}" y="{top}" width="{side}" height="{side}"/>',
        *lines,
        f'<path class="defect" d="M{u - 10:.1f} {v + 9:.1f} q8 -4 9 -9 t11 -8"/>',
        f'<rect class="frame" x="{x}" y="{top}" width="{side}" height="{side}"/>',
    ]


def encoder(x: float, y: float) -> list[str]:
    """Draw the network as a box that narrows."""
    return [
        f'<path class="box" d="M{x} {y - 168} L{x + 78} {y - 132} V{y + 132} L{x} {y + 168} z"/>',
        text(x + 39, y - 4, "pre-", "note"),
        text(x + 39, y + 10, "trained,", "note"),
        text(x + 39, y + 24, "frozen", "note"),
    ]


def grid(x: float, y: float, side: float, cells: int, *, heat: bool) -> list[str]:
    """Draw a map of positions; with heat, the nearer to the defect the stronger."""
    top, step = y - side / 2, side / cells
    drawn = [f'<rect class="cell" x="{x}" y="{top}" width="{side}" height="{side}"/>']
    if heat:
        for row in range(cells):
            for column in range(cells):
                away = math.hypot(
                    (column + 0.5) / cells - DEFECT[0], (row + 0.5) / cells - DEFECT[1]
                )
                strength = math.exp(-0.5 * (away / (0.08 + 0.3 / cells)) ** 2)
                if strength > 0.03:
                    drawn.append(
                        f'<rect class="heat" opacity="{strength:.2f}" x="{x + column * step:.1f}" '
                        f'y="{top + row * step:.1f}" width="{step:.2f}" height="{step:.2f}"/>'
                    )
    if cells <= 12:
        path = "".join(
            f"M{x + n * step:.1f} {top} v{side} M{x} {top + n * step:.1f} h{side} "
            for n in range(1, cells)
        )
        drawn.append(f'<path class="cell" fill-opacity="0" d="{path.strip()}"/>')
    drawn.append(f'<rect class="frame" x="{x}" y="{top}" width="{side}" height="{side}"/>')
    return drawn


def flow(x: float, y: float) -> list[str]:
    """Draw a flow as a row of coupling blocks."""
    blocks = [
        f'<rect class="box" x="{x + 6 + 28 * n}" y="{y - 20}" width="22" height="40" rx="3"/>'
        for n in range(4)
    ]
    return [
        *blocks,
        text(x + 61, y - 28, "z → u", "note"),
    ]


def memory(x: float, y: float) -> list[str]:
    """Draw good vectors as dots, and a vector with the way to the nearest of them."""
    good = ((16, -9), (33, 8), (41, -12), (53, 1), (24, 12), (66, -11), (60, 13))
    near, new = good[5], (91, 5)
    return [
        f'<rect class="box" x="{x + 6}" y="{y - 20}" width="106" height="40" rx="3"/>',
        *(f'<circle class="good" cx="{x + 6 + u}" cy="{y + v}" r="3"/>' for u, v in good),
        f'<path class="way" d="M{x + 6 + near[0]} {y + near[1]} L{x + 6 + new[0]} {y + new[1]}"/>',
        f'<circle class="heat" cx="{x + 6 + new[0]}" cy="{y + new[1]}" r="3.5"/>',
        text(x + 61, y - 28, "distance to the nearest", "note"),
    ]


def condition(x: float, y: float) -> list[str]:
    """Draw the position's encoding, which every flow is given."""
    wave = " ".join(
        f"{x - 44 + t * 88 / 60:.1f},{y - 11 * math.sin(2 * math.pi * 2.5 * t / 60):.1f}"
        for t in range(61)
    )
    tips = [
        f'<path class="condition" d="M{x} {row + 34} Q{x} {row + 14} {x + 20} {row + 14} H455"/>'
        f'<path class="purple" d="M462 {row + 14} l-9 -4.5 v9 z"/>'
        for (stride, _), row in zip(LEVELS, ROWS, strict=True)
        if stride != MEMORY
    ]
    return [
        f'<path class="condition" d="M{x} {y - 17} V{ROWS[0] + 34}"/>',
        *tips,
        f'<polyline class="wave" points="{wave}"/>',
        text(x + 58, y - 2, "position condition c: sines and", "note left"),
        text(x + 58, y + 14, "cosines of row and column", "note left"),
    ]


if __name__ == "__main__":
    main()
