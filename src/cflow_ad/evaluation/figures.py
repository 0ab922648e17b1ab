"""The figure of the CFLOW-AD paper: images, anomaly maps and predictions in three rows."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import SettingsError
from cflow_ad.evaluation.overlay import Mask, shrink_image, shrink_map, shrink_mask
from cflow_ad.files import write_whole, writing
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")

_LONGEST = 512
"""Pixels of an image in the figure, more than it is drawn with."""

_DPI = 200
_INK, _FAINT, _WRONG, _RED = "#1b1f24", "#5c6570", "#b3261e", "#ff0000"
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")
"""Those that are installed draw the titles, in this order."""

_TITLE = 20
"""The most characters of a title for a square image."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of the figure: an image and its prediction."""

    prediction: Prediction

    image: NDArray[Any]
    """RGB, shape `(H, W, 3)`, 0 to 255."""

    title: str
    """Such as the name of the defect. A title too long for its column is cut."""

    truth: Mask | None = None
    """Shape `(H, W)`; empty for a good image, None where the truth is unknown."""


def draw_panels(
    panels: Sequence[Panel], *, map_threshold: float, scale: tuple[float, float], path: Path
) -> None:
    """Draw one column for each image, in three rows.

    The first row is the image with the true defects outlined, the second the anomaly map, the
    third the image with the predicted mask outlined. An empty mask has no outline.

    Args:
        panels: at least one; sizes may differ, aspect ratios are kept.
        map_threshold: marked on the colour bar.
        scale: the scores of the first and the last colour, for all maps; see `overlay.map_scale`.
        path: ends with `.png` or `.svg`; an existing file is replaced.

    Raises:
        SettingsError: there are no panels, or the suffix is another one.
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise SettingsError(f"{path}: a figure is {' or '.join(SUFFIXES)}; name it so")
    if not panels:
        raise SettingsError(f"{path}: there is no image to draw; give at least one")

    aspects = [panel.image.shape[1] / panel.image.shape[0] for panel in panels]
    ratios = [float(np.clip(aspect, 0.5, 1.8)) for aspect in aspects]
    height = min(1.0, max(ratio / aspect for ratio, aspect in zip(ratios, aspects, strict=True)))
    figure = Figure(figsize=(1.5 * sum(ratios), 4.6 * height), dpi=_DPI, facecolor="white")
    grid = {"width_ratios": ratios, "wspace": 0.04, "hspace": 0.04}
    grid |= {"left": 0, "right": 1, "bottom": 0, "top": 1}  # the margins are added when it is saved
    axes = figure.subplots(3, len(panels), squeeze=False, gridspec_kw=grid)
    fonts = _installed_fonts()
    for column, panel, ratio in zip(axes.T, panels, ratios, strict=True):
        _draw_column(column, panel, scale, raw=kind == ".svg")
        title = _shorten(panel.title, max(10, round(_TITLE * ratio)))
        words = {"ha": "center", "va": "bottom", "fontsize": 7.5, "parse_math": False}
        at = {"xycoords": "axes fraction", "textcoords": "offset points", "family": fonts}
        column[0].annotate(title, (0.5, 1), (0, 12), color=_INK, **words, **at)
        colour = _WRONG if panel.prediction.is_anomalous else _FAINT
        score = f"{panel.prediction.score:.3g}"
        column[0].annotate(score, (0.5, 1), (0, 3), color=colour, **words, **at)
    is_known = any(panel.truth is not None for panel in panels)
    names = ("ground truth" if is_known else "image", "anomaly map", "prediction")
    for row, name in zip(axes[:, 0], names, strict=True):
        row.set_ylabel(name, fontsize=7.5, color=_FAINT)
    bar = figure.colorbar(axes[1, -1].images[0], cax=axes[1, -1].inset_axes((1.06, 0, 0.07, 1)))
    bar.set_ticks([scale[0], map_threshold, scale[1]])
    bar.set_ticklabels([f"{scale[0]:.3g}", f"threshold\n{map_threshold:.3g}", f"{scale[1]:.3g}"])
    bar.ax.tick_params(labelsize=6.5, labelcolor=_FAINT)

    metadata = {"Date": None, "Creator": None} if kind == ".svg" else {"Software": None}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that no installed font has are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format=kind[1:], bbox_inches="tight", metadata=metadata)
    with writing("figure", path):
        write_whole(path, buffer.getvalue())


def _draw_column(
    column: Sequence[Axes], panel: Panel, scale: tuple[float, float], *, raw: bool
) -> None:
    image = shrink_image(panel.image, _LONGEST)
    anomaly_map = shrink_map(panel.prediction.anomaly_map, _LONGEST)
    # An SVG holds the pixels as they are; for a PNG they are resampled to the figure's.
    interpolation = "none" if raw else "antialiased"
    for axes in column:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes in (column[0], column[2]):
        axes.imshow(image, interpolation=interpolation)
    low, high = scale
    column[1].imshow(anomaly_map, cmap="jet", vmin=low, vmax=high, interpolation=interpolation)
    for axes, mask in ((column[0], panel.truth), (column[2], panel.prediction.mask)):
        if mask is not None and mask.any():
            _draw_contour(axes, shrink_mask(mask, _LONGEST))


def _draw_contour(axes: Axes, mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.float32)  # closes the line where a region meets the edge
    x = np.clip(np.arange(-1.0, width + 1), -0.5, width - 0.5)
    y = np.clip(np.arange(-1.0, height + 1), -0.5, height - 0.5)
    axes.contour(x, y, padded, levels=[0.5], colors=_RED, linewidths=0.9)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _shorten(title: str, most: int) -> str:
    title = title.replace("\n", " ")
    return title if len(title) <= most else title[: most - 1].rstrip() + "…"


def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in installed]
