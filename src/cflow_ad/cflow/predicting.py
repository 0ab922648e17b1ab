"""From images to predictions, with a model in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor

from cflow_ad.cflow.maps import MapBuilder
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.running import BATCH_SIZE, run_over
from cflow_ad.cflow.scorer import Scorer
from cflow_ad.data.images import ImageSource
from cflow_ad.data.parallel import OnError
from cflow_ad.scoring.anomaly_map import Floats
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.prediction import Prediction, build_prediction
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import View
from cflow_ad.settings import Precision, Settings

Result = TypeVar("Result")


class Predictor:
    """A model, folded, with all that predictions take; for several threads.

    Args:
        model: fitted.
        settings: of the model.
        precision: to score in; unset, that of the settings.
    """

    def __init__(
        self, model: CflowModel, settings: Settings, precision: Precision | None = None
    ) -> None:
        self._settings = settings
        self.scorer = Scorer(model, precision=precision or settings.precision)
        self._build_maps = MapBuilder(settings.smoothing, self.scorer.device)

    def run_over(
        self,
        sources: Iterable[ImageSource],
        view: View,
        finish: Callable[[Prediction, list[Floats]], Result],
        *,
        calibration: Calibration | None = None,
        maps: bool = True,
        batch_size: int = BATCH_SIZE,
        on_error: OnError | None = None,
    ) -> Iterator[tuple[ImageSource, Result]]:
        """Predict images, as `running.run_over` runs a network over them.

        Args:
            sources: as for `run_over`.
            view: likewise.
            finish: makes a result of a prediction and the energies of its levels, in threads.
            calibration: of the model; unset, no image is anomalous.
            maps: compute anomaly maps ahead.
            batch_size: as for `run_over`.
            on_error: likewise.
        """
        settings = self._settings
        needs_maps = maps or settings.method.image_score == "peak"

        def finish_levels(canvas: Canvas, levels: list[Tensor]) -> Result:
            energies = [level.numpy() for level in levels]
            on_device = energies.pop() if len(energies) > len(settings.strides) else None
            prediction = build_prediction(
                energies, canvas, settings, calibration=calibration, with_map=maps, values=on_device
            )
            return finish(prediction, energies)

        return run_over(
            self.scorer,
            finish_levels,
            sources,
            view,
            device=self.scorer.device,
            batch_size=batch_size,
            extra=self._build_maps if needs_maps else None,
            on_error=on_error,
        )
