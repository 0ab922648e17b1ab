"""Two versions of a product's model on the same marked images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.data.layouts import Dataset
from cflow_ad.errors import StoreError
from cflow_ad.fleet.models import ModelStore
from cflow_ad.fleet.versions import Version
from cflow_ad.runtime.opening import open_detector

if TYPE_CHECKING:
    from cflow_ad.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class Change:
    """An image to which two versions give different verdicts."""

    image: str
    label: str
    before: bool
    """Whether the first version calls it anomalous."""
    after: bool


@dataclass(frozen=True)
class Comparison:
    """Results of two versions on the same images."""

    versions: tuple[Version, Version]
    evaluations: tuple[Evaluation, Evaluation]

    @property
    def changes(self) -> list[Change]:
        """The images with different verdicts, in the order of the data set."""
        first, second = (evaluation.images for evaluation in self.evaluations)
        return [
            Change(
                self.evaluations[0].dataset.relative(one.sample.path),
                one.sample.label,
                one.is_anomalous,
                other.is_anomalous,
            )
            for one, other in zip(first, second, strict=True)
            if one.is_anomalous != other.is_anomalous
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of figures for each version; an undefined one is None."""
        return [
            {
                "version": version.version,
                "image_auroc": evaluation.image.auroc,
                "pixel_auroc": getattr(evaluation.pixel, "auroc", None),
                "aupro": getattr(evaluation.pixel, "aupro", None),
                "found": evaluation.confusion.tp,
                "missed": evaluation.confusion.fn,
                "false_alarms": evaluation.confusion.fp,
                "threshold": evaluation.threshold,
            }
            for version, evaluation in zip(self.versions, self.evaluations, strict=True)
        ]


def compare_versions(
    store: ModelStore,
    product: str,
    dataset: Dataset,
    *,
    before: str | None = None,
    after: str | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Evaluate two versions on the same images.

    Args:
        store: has them.
        product: their product.
        dataset: its test images are used.
        before: the first version; unset, the promoted one.
        after: the second; unset, the newest other one.
        device: where to run.
        progress: called with the number of images done and in all.

    Raises:
        StoreError: there is no such version, or only one.
        DataError: there are no test images.
    """
    from cflow_ad.evaluation.evaluate import evaluate

    first = store.get(product, before)
    if after is None:
        others = [v for v in store.versions(product) if v.version != first.version]
        if not others:
            raise StoreError(f"{store.name}: {product!r} has one version; train another to compare")
        second = others[-1]
    else:
        second = store.get(product, after)
    total = 2 * len(dataset.require_test())
    evaluations = []
    for number, version in enumerate((first, second)):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{version.version}.safetensors"
            file.write_bytes(store.read(version))
            detector = open_detector(file, device=device)
        done = number * total // 2
        evaluations.append(
            evaluate(detector, dataset, progress=partial(_report, progress, done, total))
        )
    return Comparison((first, second), (evaluations[0], evaluations[1]))


def _report(
    progress: Callable[[int, int], None], before: int, total: int, done: int, _: int
) -> None:
    progress(before + done, total)
