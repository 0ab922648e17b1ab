"""From image files to anomaly maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad.data.images import ImageSource
from cflow_ad.data.loading import OnError, load_batches
from cflow_ad.model.network import CflowNetwork
from cflow_ad.model.scoring import anomaly_map
from cflow_ad.settings import Settings


def stream_maps(
    network: CflowNetwork,
    settings: Settings,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 8,
    on_error: OnError | None = None,
) -> Iterator[tuple[ImageSource, NDArray[np.float32]]]:
    """The one way from images to anomaly maps, for calibration and prediction alike.

    Args:
        network: encoder and levels.
        settings: those of the model.
        sources: images, as for `Detector.predict`.
        batch_size: as for `Detector.stream`.
        on_error: as for `Detector.stream`.

    Returns:
        Each image with its map, in the images' order.

    Raises:
        ImageError: an image cannot be used and `on_error` is unset.
    """
    device = network.encoder.mean.device
    if device.type == "cpu":
        # Convolutions choose their algorithm by the size of the batch, and whitening magnifies
        # what that does to the last bits.
        batch_size = 1
    for batch in load_batches(sources, settings.sizing, batch_size=batch_size, on_error=on_error):
        with torch.inference_mode():
            levels = [
                level.cpu().numpy() for level in network(torch.from_numpy(batch.pixels).to(device))
            ]
        for number, (source, canvas) in enumerate(zip(batch.sources, batch.canvases, strict=True)):
            yield (
                source,
                anomaly_map(
                    [level[number] for level in levels],
                    settings.strides,
                    valid=canvas.valid,
                    original=canvas.original,
                    smoothing=settings.smoothing,
                ),
            )
