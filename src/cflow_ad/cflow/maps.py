"""From image files to anomaly maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from cflow_ad.cflow.evidence import Evidence, seen_map
from cflow_ad.cflow.running import run_over
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.data.images import ImageSource
from cflow_ad.data.parallel import OnError
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.view import Seen, View
from cflow_ad.settings import Settings


def stream_maps(
    scorer: Scorer,
    settings: Settings,
    view: View,
    sources: Iterable[ImageSource],
    *,
    evidence: Evidence | None = None,
    batch_size: int = 8,
    on_error: OnError | None = None,
) -> Iterator[tuple[ImageSource, Seen]]:
    """The one way from images to anomaly maps, for calibration and prediction alike.

    Args:
        scorer: of the model.
        settings: those of the model.
        view: that of the model.
        sources: images, as for `Detector.predict`.
        evidence: that of the model.
        batch_size: as for `Detector.stream`.
        on_error: as for `Detector.stream`.

    Returns:
        Each image with its map and where it holds, in the images' order.

    Raises:
        ImageError: an image cannot be used and `on_error` is unset.
    """

    def finish(canvas: Canvas, levels: list[Tensor]) -> Seen:
        return seen_map([level.numpy() for level in levels], canvas, settings, evidence)

    return run_over(
        scorer,
        finish,
        sources,
        view,
        device=scorer.encoder.mean.device,
        batch_size=batch_size,
        on_error=on_error,
    )
