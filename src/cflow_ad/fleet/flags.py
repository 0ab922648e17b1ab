"""Flag good images that a person should look at: several clusters, drift, or too few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cflow_ad.data.images import ImageSource
    from cflow_ad.detector import Detector

Floats = NDArray[np.float64]

FEWEST = 12
"""Images below which drift is not looked for."""

_MOST = 256  # images that are described
_COMPONENTS = 5
_FEWEST_IN_CLUSTERS = 20  # images; fewer may fall apart by chance
_SEPARATION = 6.0  # of two clusters, in standard deviations within; a cut Gaussian has 2.7
_SMALLEST = 0.1  # share of the images in the smaller cluster
_CORRELATION = 0.5
_CHANCE = 1e-3  # that images in random order have such a correlation


def find_flags(detector: Detector, sources: Sequence[ImageSource]) -> dict[str, str]:
    """Find what a person should look at before a model is used.

    Args:
        detector: fitted to the images.
        sources: the good images, in the order in which they were taken.

    Returns:
        By kind, `clusters`, `drift` or `few`, a sentence.
    """
    flags = {}
    if not detector.calibration.is_as_asked:
        flags["few"] = detector.calibration.note
    if len(sources) >= FEWEST:
        found = describe_images(detector, sources)
        if (sizes := find_clusters(found)) is not None:
            flags["clusters"] = (
                f"The good images fall into two clusters, of {sizes[0]} and {sizes[1]} of the "
                f"{len(found)} compared: two variants may need a model each."
            )
        if (correlation := find_drift(found)) is not None:
            flags["drift"] = (
                "The good images change in the order of their names (rank correlation "
                f"{correlation:.2f}): the latest may be unlike those to come."
            )
    return flags


def describe_images(detector: Detector, sources: Sequence[ImageSource]) -> Floats:
    """Return for each image the means of its feature maps, shape `(n, channels)`.

    Of more than 256 images, 256 at equal distances are taken.
    """
    from cflow_ad.cflow.folding import FoldedEncoder
    from cflow_ad.cflow.running import run_over

    number = min(len(sources), _MOST)
    chosen = np.linspace(0, len(sources) - 1, number).round().astype(int)
    encoder = FoldedEncoder(detector.model.encoder, detector.settings.precision)
    encoded = run_over(
        encoder,
        lambda canvas, levels: np.concatenate([of.float().mean((1, 2)).numpy() for of in levels]),
        [sources[i] for i in chosen],
        detector.view,
        device=detector.device,
    )
    return np.stack([means for _, means in encoded]).astype(np.float64)


def find_clusters(vectors: Floats) -> tuple[int, int] | None:
    """Find whether vectors fall into two clusters rather than one.

    They are split by 2-means in their first principal components. The split counts where the
    clusters are at least 6 standard deviations apart (Ashman's D: Ashman et al., AJ 1994) and the
    smaller has a tenth of the vectors. On seven data sets of 33 to 40 images D is at most 5.5, on
    the 21 mixtures of two of them at least 10. Of 20 normally distributed vectors 1 % are as far
    apart.

    Args:
        vectors: shape `(n, d)`.

    Returns:
        How many vectors the larger and the smaller cluster have; None for one cluster, or for fewer
        than 20 vectors.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> one = rng.normal(size=(40, 8))
        >>> find_clusters(one), find_clusters(one + 9 * (np.arange(40) < 15)[:, None])
        (None, (25, 15))
    """
    scores = _principal_components(vectors)
    labels = _split_in_two(scores, np.random.default_rng(0))
    sizes = np.bincount(labels, minlength=2)
    if len(vectors) < _FEWEST_IN_CLUSTERS or sizes.min() < _SMALLEST * len(scores):
        return None
    if _separation(scores, labels) < _SEPARATION:
        return None
    return int(sizes.max()), int(sizes.min())


def find_drift(vectors: Floats) -> float | None:
    """Find whether vectors change steadily with their order.

    Args:
        vectors: shape `(n, d)`.

    Returns:
        The largest rank correlation (Spearman's) of a principal component with the order, as an
        absolute value, where it is at least 0.5 and not by chance; else None.
    """
    from scipy.stats import spearmanr

    scores = _principal_components(vectors)
    strongest = 0.0
    for component in scores.T[np.ptp(scores, axis=0) > 0]:
        found = spearmanr(np.arange(len(component)), component)
        if found.pvalue * scores.shape[1] < _CHANCE:
            strongest = max(strongest, abs(float(found.statistic)))
    return strongest if strongest >= _CORRELATION else None


def _principal_components(vectors: Floats) -> Floats:
    """Project standardised vectors on their first principal components that vary."""
    deviation = vectors.std(axis=0)
    varying = deviation > 1e-9 * (np.abs(vectors).max(axis=0) + 1e-300)
    scaled = (vectors - vectors.mean(axis=0))[:, varying] / deviation[varying]
    if not scaled.size:
        return np.zeros((len(vectors), 1))
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    kept = min(_COMPONENTS, max(1, len(vectors) // 6), int((values > 1e-9).sum()))
    return np.asarray(left[:, :kept] * values[:kept])


def _split_in_two(vectors: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the labels, 0 and 1, of the best of three runs of 2-means."""
    best, labels = np.inf, np.zeros(len(vectors), np.intp)
    starts = [vectors[[vectors[:, 0].argmin(), vectors[:, 0].argmax()]]]
    starts += [vectors[rng.choice(len(vectors), 2, replace=False)] for _ in range(2)]
    for centres in starts:
        found = labels
        for _ in range(30):
            distances = ((vectors[:, None] - centres) ** 2).sum(axis=2)
            before, found = found, distances.argmin(axis=1)
            if found.min() == found.max() or np.array_equal(found, before):
                break
            centres = np.stack([vectors[found == which].mean(axis=0) for which in (0, 1)])
        if (left := float(distances.min(axis=1).sum())) < best and found.min() != found.max():
            best, labels = left, found
    return labels


def _separation(vectors: Floats, labels: NDArray[np.intp]) -> float:
    """Ashman's D of two clusters, along the line between their centres."""
    one, other = vectors[labels == 0], vectors[labels == 1]
    axis = other.mean(axis=0) - one.mean(axis=0)
    distance = float(np.linalg.norm(axis))
    if distance == 0:
        return 0.0
    variances = [float((part @ axis / distance).var()) for part in (one, other)]
    return float(distance / max(np.sqrt(np.mean(variances)), 1e-12))
