"""The picture that CFLOW-AD is known by: images, anomaly maps and predictions, one over another."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import DataError, SettingsError
from cflow_ad.evaluation.overlay import (
    heatmap,
    jet_table,
    shrink_image,
    shrink_map,
    shrink_mask,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SUFFIXES = (".png", ".svg")

_LONGEST = 512  # pixels of an embedded image: more than it is drawn with
_DPI = 200
_HEIGHT, _WIDEST, _NARROWEST = 1.5, 2.7, 0.8  # inches, of a picture
_GAP = 0.06
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.26, 0.8, 0.38, 0.06  # inches, of the margins
_INK, _FAINT, _RED = "#1b1f24", "#5c6570", "#ff0000"
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "WenQuanYi Micro Hei",
    "Malgun Gothic",
    "Arial Unicode MS",
)


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of the picture: an image and what was said of it."""

    image: NDArray[Any]
    """RGB, shape `(H, W, 3)`, 0 to 255."""

    anomaly_map: NDArray[np.float32]
    """Shape `(H, W)`."""

    predicted_mask: NDArray[np.bool_]
    """Shape `(H, W)`; empty where nothing was found."""

    truth: NDArray[np.bool_] | None
    """Shape `(H, W)`; empty for a good image, None where the truth is not known."""

    title: str
    """Such as the defect's name. One that is too long for its column is cut."""

    score: float
    """Of the image."""


def draw_panels(
    panels: Sequence[Panel], *, threshold: float, scale: tuple[float, float], path: Path
) -> None:
    """Draw one column for each image, and three rows.

    The first row is the image with the true defects outlined, the second the anomaly map, the
    third the image with what was found outlined. Good images, and those where nothing was found,
    have no outline.

    Args:
        panels: at least one; sizes may differ, aspect ratios are kept.
        threshold: marked on the colour bar.
        scale: the scores of the first and the last colour, for all maps alike; see
            `overlay.map_scale`.
        path: ends with `.png` or `.svg`; replaced if it exists.

    Raises:
        SettingsError: there are no panels, or the file is to be of another kind.
        DataError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise SettingsError(f"{path}: a figure is {' or '.join(SUFFIXES)}; name it so")
    if not panels:
        raise SettingsError(f"{path}: there is no image to draw; give at least one")

    sizes = [_drawn_size(panel) for panel in panels]
    columns = [max(width, _NARROWEST) for width, _ in sizes]
    row = max(height for _, height in sizes)
    width = _LEFT + sum(columns) + _GAP * (len(columns) - 1) + _RIGHT
    height = _TOP + 3 * row + 2 * _GAP + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)  # measures text, whatever is written in the end

    fonts = _fonts()
    left = _LEFT
    for panel, size, column in zip(panels, sizes, columns, strict=True):
        middle = left + column / 2
        _draw_column(figure, panel, size, row, middle, scale, raw=kind == ".svg")
        _write_title(figure, panel, middle, column, threshold, fonts)
        left += column + _GAP
    known = any(panel.truth is not None for panel in panels)
    rows = ("ground truth" if known else "image", "anomaly map", "prediction")
    for index, name in enumerate(rows):
        y = height - _TOP - row / 2 - index * (row + _GAP)
        _text(figure, _LEFT - 0.08, y, name, 7.5, _FAINT, fonts, va="center", ha="right", turn=90)
    bar = (left - _GAP + 0.1, height - _TOP - 2 * row - _GAP, 0.1, row)
    _draw_colour_bar(figure, bar, threshold, scale, fonts)

    canvas = FigureCanvasSVG(figure) if kind == ".svg" else FigureCanvasAgg(figure)
    metadata = {"Date": None, "Creator": None} if kind == ".svg" else {"Software": None}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that no installed font has is drawn as boxes; that is no fault here.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        canvas.print_figure(buffer, format=kind[1:], dpi=_DPI, metadata=metadata)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise DataError(f"{path}: the figure cannot be written ({error.strerror})") from error


def _drawn_size(panel: Panel) -> tuple[float, float]:
    """Width and height in inches."""
    rows, columns = panel.anomaly_map.shape
    scale = min(_HEIGHT / rows, _WIDEST / columns)
    return columns * scale, rows * scale


def _draw_column(
    figure: Figure,
    panel: Panel,
    size: tuple[float, float],
    row: float,
    middle: float,
    scale: tuple[float, float],
    *,
    raw: bool,
) -> None:
    image = shrink_image(panel.image, _LONGEST)
    colours = heatmap(shrink_map(panel.anomaly_map, _LONGEST), scale)
    rasters = ((image, panel.truth), (colours, None), (image, panel.predicted_mask))
    top = figure.get_figheight() - _TOP
    for index, (pixels, mask) in enumerate(rasters):
        bottom = top - index * (row + _GAP) - (row + size[1]) / 2
        axes = _axes(figure, (middle - size[0] / 2, bottom, *size))
        # Into an SVG a raster goes as it is; a bitmap is resampled to the pixels it is drawn with.
        axes.imshow(pixels, aspect="auto", interpolation="none" if raw else "antialiased")
        if mask is not None and mask.any():
            _draw_contour(axes, shrink_mask(mask, _LONGEST))


def _draw_contour(axes: Axes, mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.float32)  # closes the line where a region meets the edge
    x = np.clip(np.arange(-1.0, width + 1), -0.5, width - 0.5)
    y = np.clip(np.arange(-1.0, height + 1), -0.5, height - 0.5)
    axes.contour(x, y, padded, levels=[0.5], colors=_RED, linewidths=0.9, antialiased=True)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _draw_colour_bar(
    figure: Figure,
    box: tuple[float, float, float, float],
    threshold: float,
    scale: tuple[float, float],
    fonts: list[str],
) -> None:
    low, high = scale
    axes = _axes(figure, box)
    colours = jet_table()[::-1, None, :]
    axes.imshow(colours, aspect="auto", interpolation="nearest", extent=(0, 1, low, high))
    right = box[0] + box[2]
    for value, name in ((low, f"{low:.3g}"), (high, f"{high:.3g}")):
        y = box[1] + box[3] * (value - low) / (high - low)
        align = "bottom" if value == low else "top"
        _text(figure, right + 0.08, y, name, 6.5, _FAINT, fonts, va=align, ha="left")
    if low <= threshold <= high:
        y = box[1] + box[3] * (threshold - low) / (high - low)
        axes.axhline(threshold, color=_INK, linewidth=1.0)
        words = f"threshold\n{threshold:.3g}"
        _text(figure, right + 0.08, y, words, 6.5, _INK, fonts, va="center", ha="left")


def _write_title(
    figure: Figure,
    panel: Panel,
    middle: float,
    column: float,
    threshold: float,
    fonts: list[str],
) -> None:
    top = figure.get_figheight() - _TOP
    name = panel.title.replace("\n", " ")
    title = _text(figure, middle, top + 0.19, name, 7.5, _INK, fonts, va="baseline", ha="center")
    while _width(title) > column and len(name) > 1:
        name = name[:-1]
        title.set_text(name.rstrip() + "…")
    colour = "#b3261e" if panel.score > threshold else _FAINT
    score = f"{panel.score:.3g}"
    _text(figure, middle, top + 0.06, score, 7, colour, fonts, va="baseline", ha="center")


def _width(text: Text) -> float:
    """In inches."""
    figure = text.get_figure(root=True)
    assert figure is not None  # it was drawn into one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        return float(text.get_window_extent().width / figure.get_dpi())


def _text(
    figure: Figure,
    x: float,
    y: float,
    words: str,
    size: float,
    colour: str,
    fonts: list[str],
    *,
    va: str,
    ha: str,
    turn: float = 0,
) -> Text:
    """Write at a place in inches. Nothing in a name is taken for a formula."""
    width, height = figure.get_size_inches()
    return figure.text(
        x / width,
        y / height,
        words,
        fontsize=size,
        color=colour,
        family=fonts,
        va=va,
        ha=ha,
        rotation=turn,
        linespacing=1.25,
        parse_math=False,
    )


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Bare axes in a box in inches: left, bottom, width, height."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = box
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.set_axis_off()
    return axes


def _fonts() -> list[str]:
    """Of the fonts that have what names are written with, those that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in installed]
