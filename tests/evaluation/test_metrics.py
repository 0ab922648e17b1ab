from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import sklearn.metrics as sk

from cflow_ad.evaluation.metrics import Confusion, PixelMetrics, binomial_interval, image_metrics
from tests.evaluation.oracle import exact_aupro, exact_pixel_metrics

# How scores come about from a standard normal variable that is larger in defects.
DISTRIBUTIONS = {
    "gaussian": lambda z: z,
    "negative": lambda z: z - 100,
    "skewed": lambda z: np.exp(4 * z - 10),
    "very skewed": lambda z: np.exp(10 * z),
    "narrow": lambda z: 1000 + 0.01 * z,
    "clamped": lambda z: np.clip(z, -0.5, 2.0),
    "heavy ties": np.round,
    "constant": np.zeros_like,
}


def make_masks(rng, n=8, size=96):
    """Masks (n, H, W), every other one with rectangles that may touch."""
    masks = np.zeros((n, size, size), bool)
    for mask in masks[1::2]:
        for _ in range(rng.integers(1, 5)):
            row, column = rng.integers(0, size - 20, 2)
            height, width = rng.integers(1, 20, 2)
            mask[row : row + height, column : column + width] = True
    return masks


def make_data(name, seed=0, **kwargs):
    """Maps and masks (n, H, W) of one of the distributions."""
    rng = np.random.default_rng(seed)
    masks = make_masks(rng, **kwargs)
    maps = DISTRIBUTIONS[name](rng.standard_normal(masks.shape) + 1.5 * masks)
    return maps.astype(np.float32), masks


def pixel_metrics(maps, masks):
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    return metrics


def numbers(result):
    """The scalar fields of a result."""
    return {k: v for k, v in vars(result).items() if isinstance(v, int | float)}


def f1_at(threshold, scores, is_defect):
    counts = Confusion.count(scores > threshold, is_defect)
    return 2 * counts.tp / (2 * counts.tp + counts.fp + counts.fn)


# Images


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [2, 5, 50, 1000])
def test_image_metrics_are_those_of_scikit_learn(name, n):
    rng = np.random.default_rng(n)
    is_defect = rng.random(n) < 0.3
    is_defect[:2] = False, True
    scores = DISTRIBUTIONS[name](rng.standard_normal(n) + 1.5 * is_defect)
    metrics = image_metrics(scores, is_defect)

    assert metrics.auroc == pytest.approx(sk.roc_auc_score(is_defect, scores), abs=1e-12)
    expected = sk.average_precision_score(is_defect, scores)
    assert metrics.average_precision == pytest.approx(expected, abs=1e-12)

    fpr, tpr, _ = sk.roc_curve(is_defect, scores, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc.x, fpr)
    np.testing.assert_allclose(metrics.roc.y, tpr)

    precision, recall, _ = sk.precision_recall_curve(is_defect, scores)
    np.testing.assert_allclose(metrics.precision_recall.x, recall[::-1])
    np.testing.assert_allclose(metrics.precision_recall.y, precision[::-1])

    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert metrics.best_f1 == pytest.approx(best)
    assert f1_at(metrics.best_f1_threshold, scores, is_defect) == pytest.approx(best)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_image_threshold_separates_neighbouring_floats_in_their_own_precision(dtype):
    low = dtype(0.7)
    scores = np.array([low, np.nextafter(low, dtype(1))])
    threshold = image_metrics(scores, [False, True]).best_f1_threshold
    assert (scores > threshold).tolist() == [False, True]


def test_image_threshold_lies_half_way_and_below_all_where_all_are_flagged():
    assert image_metrics([1.0, 2.0], [False, True]).best_f1_threshold == 1.5
    assert image_metrics([2.0, 1.0], [False, True]).best_f1_threshold < 1.0
    assert image_metrics([0.0, 0.0], [False, True]).best_f1_threshold < 0.0


def test_perfect_and_reversed_image_scores():
    is_defect = np.arange(20) >= 15
    perfect = image_metrics(np.arange(20), is_defect)
    assert (perfect.auroc, perfect.average_precision, perfect.best_f1) == (1, 1, 1)
    assert image_metrics(-np.arange(20), is_defect).auroc == 0


@pytest.mark.parametrize("is_defect", [[False] * 3, [True] * 3])
def test_image_metrics_of_one_kind_are_undefined(is_defect):
    metrics = image_metrics([1, 2, 3], is_defect)
    assert all(map(math.isnan, numbers(metrics).values()))
    assert metrics.roc.x.size == metrics.precision_recall.x.size == 0


def test_no_images_are_undefined():
    assert math.isnan(image_metrics([], []).auroc)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_image_scores_must_be_finite(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        image_metrics([1.0, bad], [False, True])


def test_image_scores_and_labels_must_match():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        image_metrics([1, 2, 3], [False, True])
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        image_metrics([[1, 2]], [[False, True]])


# Pixels


@pytest.mark.parametrize("fpr_limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_pixel_metrics_agree_with_exact_ones(name, fpr_limit):
    maps, masks = make_data(name)
    result = pixel_metrics(maps, masks).compute(fpr_limit)
    exact = exact_pixel_metrics(maps, masks, fpr_limit)
    assert result.auroc == pytest.approx(exact.auroc, abs=1e-5)
    assert result.average_precision == pytest.approx(exact.average_precision, abs=1e-4)
    assert result.best_f1 == pytest.approx(exact.best_f1, abs=1e-4)
    assert result.aupro == pytest.approx(exact.aupro, abs=1e-4)
    assert result.n_regions == exact.n_regions
    assert (result.n_pixels, result.n_defect_pixels) == (masks.size, masks.sum())


@pytest.mark.parametrize("name", ["narrow", "heavy ties", "constant"])
def test_few_distinct_scores_are_exact(name):
    maps, masks = make_data(name)
    result, exact = pixel_metrics(maps, masks).compute(), exact_pixel_metrics(maps, masks)
    for field in ("auroc", "average_precision", "best_f1", "aupro"):
        assert getattr(result, field) == pytest.approx(getattr(exact, field), abs=1e-12)


def test_best_pixel_threshold_parts_zero_from_just_below():
    rng = np.random.default_rng(0)
    maps = -np.exp(15 * rng.standard_normal((1, 256, 256)))  # enough for a coarse grid
    masks = np.zeros(maps.shape, bool)
    masks[0, :9, :9] = True
    maps[masks] = 0.0
    result = pixel_metrics(maps, masks).compute()
    assert result.best_f1 == f1_at(result.best_f1_threshold, maps.astype(np.float32), masks) == 1


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_best_pixel_threshold_has_the_best_f1(name):
    maps, masks = make_data(name)
    result = pixel_metrics(maps, masks).compute()
    assert f1_at(result.best_f1_threshold, maps, masks) == pytest.approx(result.best_f1, abs=1e-12)


@pytest.mark.parametrize(
    "transform",
    [np.exp, np.cbrt, lambda x: 3 * x - 50, lambda x: 1e-20 * x],
    ids=["exp", "cube root", "affine", "tiny"],
)
def test_rank_metrics_ignore_strictly_increasing_transforms(transform):
    maps, masks = make_data("gaussian")
    maps = maps.astype(np.float64)
    before = pixel_metrics(maps, masks).compute()
    after = pixel_metrics(transform(maps), masks).compute()
    assert after.auroc == pytest.approx(before.auroc, abs=1e-5)
    assert after.aupro == pytest.approx(before.aupro, abs=1e-4)
    assert after.average_precision == pytest.approx(before.average_precision, abs=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "very skewed", "narrow", "heavy ties"])
def test_result_depends_neither_on_order_nor_on_split(name):
    maps, masks = make_data(name)
    maps[3] *= 1e-6  # one image of another scale, so that the grid depends on who comes first
    expected = numbers(pixel_metrics(maps, masks).compute())

    a, b, c = (pixel_metrics(maps[part], masks[part]) for part in np.split(np.arange(8), [2, 5]))
    arrangements = [
        pixel_metrics(maps[::-1], masks[::-1]),
        (a + b) + c,
        a + (b + c),
        c + b + a,
        PixelMetrics() + a + b + c + PixelMetrics(),
    ]
    for metrics in arrangements:
        found = numbers(metrics.compute())
        # Integer counts are equal bit for bit; only overlaps are sums of floats.
        assert found.pop("aupro") == pytest.approx(expected["aupro"], abs=1e-12)
        assert found == {k: v for k, v in expected.items() if k != "aupro"}


def test_merging_leaves_its_parts_alone_and_goes_on():
    maps, masks = make_data("gaussian")
    a, b = pixel_metrics(maps[:4], masks[:4]), pixel_metrics(maps[4:], masks[4:])
    before = numbers(a.compute()), numbers(b.compute())
    both = a + b
    both.update(maps[0], masks[0])
    assert (numbers(a.compute()), numbers(b.compute())) == before
    assert both.compute().n_pixels == 9 * 96 * 96


def test_metrics_of_each_defect_type_share_the_good_images():
    maps, masks = make_data("gaussian")
    good = pixel_metrics(maps[::2], masks[::2])
    for k in (1, 3):
        defect = pixel_metrics(maps[k : k + 1], masks[k : k + 1])
        chosen = [0, 2, 4, 6, k]
        exact = exact_pixel_metrics(maps[chosen], masks[chosen])
        result = (good + defect).compute()
        assert result.auroc == pytest.approx(exact.auroc, abs=1e-5)
        assert result.aupro == pytest.approx(exact.aupro, abs=1e-4)


def test_partial_results_survive_pickling_between_processes():
    maps, masks = make_data("gaussian")
    metrics = pixel_metrics(maps, masks)
    copy = pickle.loads(pickle.dumps(metrics))
    assert numbers(copy.compute()) == numbers(metrics.compute())


def test_perfect_and_random_detectors():
    rng = np.random.default_rng(0)
    masks = make_masks(rng)
    perfect = pixel_metrics(masks.astype(float), masks).compute()
    for value in (perfect.auroc, perfect.average_precision, perfect.best_f1, perfect.aupro):
        assert value == pytest.approx(1)
    chance = pixel_metrics(rng.random(masks.shape), masks).compute(1.0)
    assert chance.auroc == pytest.approx(0.5, abs=0.02)
    assert chance.aupro == pytest.approx(0.5, abs=0.1)
    assert chance.average_precision == pytest.approx(masks.mean(), abs=0.01)


# Good pixels: 9, 6, 4, 1, 1. Regions: {8} and {7, 3}. From the top:
#   9: FPR 1/5   8: PRO 1/2   7: PRO 3/4   6: FPR 2/5   4: FPR 3/5   3: PRO 1   1, 1: FPR 1
TINY_MAP = np.array([[8, 9, 6, 7], [4, 1, 1, 3]])
TINY_MASK = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], bool)


@pytest.mark.parametrize(
    ("fpr_limit", "area"),
    [
        (0.1, 0.0),
        (0.2, 0.0),
        (0.3, 0.1 * 0.75),  # PRO stays at 3/4 from FPR 1/5 on
        (0.5, 0.3 * 0.75),
        (0.6, 0.4 * 0.75),
        (0.8, 0.4 * 0.75 + 0.2 * 1.0),  # beyond the last region there is nothing left to find
        (1.0, 0.4 * 0.75 + 0.4 * 1.0),
    ],
)
def test_aupro_by_hand(fpr_limit, area):
    result = pixel_metrics([TINY_MAP], [TINY_MASK]).compute(fpr_limit)
    assert result.n_regions == 2
    assert result.aupro == pytest.approx(area / fpr_limit)
    assert exact_aupro([TINY_MAP], [TINY_MASK], fpr_limit)[0] == pytest.approx(area / fpr_limit)


def test_aupro_is_interpolated_at_the_limit():
    # All pixels tie: the curve is the diagonal, and stops at the limit on the height of the limit.
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    result = pixel_metrics([np.ones((4, 4))], [mask]).compute(0.3)
    assert result.aupro == pytest.approx(0.3 / 2)
    assert (result.pro.x[-1], result.pro.y[-1]) == pytest.approx((0.3, 0.3))


def test_regions_count_alike_and_touch_at_corners():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = True  # one region, by its corner
    mask[4:8, 4:8] = True
    anomaly_map = np.where(mask, 1.0, 0.5)
    anomaly_map[4:8, 4:8] = 0.0  # the large region is missed altogether
    result = pixel_metrics([anomaly_map], [mask]).compute()
    assert result.n_regions == 2
    assert result.aupro == pytest.approx(0.5)


def test_images_of_any_size_and_negative_zero():
    metrics = PixelMetrics()
    metrics.update(np.array([[0.0, 1.0]]), np.array([[False, True]]))
    metrics.update(np.full((3, 5), -0.0), np.zeros((3, 5)))
    metrics.update(np.zeros((0, 4)), np.zeros((0, 4)))
    result = metrics.compute()
    assert (result.n_pixels, result.auroc) == (17, 1.0)
    metrics.update([[-0.0]], [[True]])  # ties with all 16 good pixels
    assert metrics.compute().auroc == pytest.approx(0.75)


def test_curves_are_thinned_to_their_ends_and_shape():
    maps, masks = make_data("gaussian")
    result = pixel_metrics(maps, masks).compute()
    for curve in (result.roc, result.precision_recall, result.pro):
        assert curve.x.shape == curve.y.shape
        assert 100 < curve.x.size <= 500
        assert (np.diff(curve.x) >= 0).all()
    assert (result.roc.x[0], result.roc.y[0]) == (0, 0)
    assert (result.roc.x[-1], result.roc.y[-1]) == (1, 1)
    assert (result.precision_recall.x[0], result.precision_recall.y[0]) == (0, 1)
    assert result.precision_recall.y[-1] == pytest.approx(masks.mean())
    assert result.pro.x[-1] == pytest.approx(0.3)
    assert result.roc.area == pytest.approx(result.auroc, abs=1e-3)
    assert result.pro.area / 0.3 == pytest.approx(result.aupro, abs=1e-3)


@pytest.mark.parametrize(
    ("masks", "n_pixels", "n_defect_pixels", "n_regions"),
    [
        ([], 0, 0, 0),
        ([np.zeros((1, 1))], 1, 0, 0),
        ([np.ones((1, 1))], 1, 1, 1),
        ([np.zeros((4, 5))], 20, 0, 0),
        ([np.ones((4, 5))] * 2, 40, 40, 2),
    ],
)
def test_pixel_metrics_of_one_kind_are_undefined(masks, n_pixels, n_defect_pixels, n_regions):
    result = pixel_metrics([np.ones(m.shape) for m in masks], masks).compute()
    assert (result.n_pixels, result.n_defect_pixels) == (n_pixels, n_defect_pixels)
    assert result.n_regions == n_regions
    for field in ("auroc", "average_precision", "best_f1", "best_f1_threshold", "aupro"):
        assert math.isnan(getattr(result, field))
    assert result.roc.x.size == result.precision_recall.x.size == result.pro.x.size == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_maps_must_be_finite_and_a_bad_one_counts_nothing(bad):
    metrics = PixelMetrics()
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.update([[0.0, bad]], [[False, True]])
    assert metrics.compute().n_pixels == 0


def test_masks_must_have_their_maps_shape():
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(6, 4\)"):
        PixelMetrics().update(np.zeros((4, 6)), np.zeros((6, 4)))
    with pytest.raises(ValueError, match=r"\(1, 4, 6\)"):
        PixelMetrics().update(np.zeros((1, 4, 6)), np.zeros((1, 4, 6)))


@pytest.mark.parametrize("fpr_limit", [0, -0.1, 1.1, math.nan])
def test_fpr_limit_must_be_a_rate(fpr_limit):
    with pytest.raises(ValueError, match="fpr_limit"):
        PixelMetrics().compute(fpr_limit)


# Counts at a threshold


def test_confusion_ratios():
    rng = np.random.default_rng(0)
    called, defect = rng.random((2, 200)) < 0.4
    counts = Confusion.count(called, defect)
    tn, fp, fn, tp = sk.confusion_matrix(defect, called).ravel()
    assert counts == Confusion(tp=tp, fp=fp, tn=tn, fn=fn)
    assert counts.accuracy == pytest.approx(sk.accuracy_score(defect, called))
    assert counts.precision == pytest.approx(sk.precision_score(defect, called))
    assert counts.recall == pytest.approx(sk.recall_score(defect, called))
    assert counts.false_alarm_rate == pytest.approx(fp / (fp + tn))


def test_undefined_ratios_are_nan():
    nothing = Confusion(tp=0, fp=0, tn=0, fn=0)
    for ratio in ("accuracy", "precision", "recall", "false_alarm_rate"):
        assert math.isnan(getattr(nothing, ratio))
    assert Confusion(tp=0, fp=0, tn=3, fn=0).false_alarm_rate == 0


def test_confusion_needs_one_shape():
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        Confusion.count([True, False], [True])


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 30), (3, 30), (30, 30)])
def test_interval_bounds_are_rates_that_just_explain_the_count(successes, trials, confidence):
    from scipy.stats import binom

    low, high = binomial_interval(successes, trials, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= low <= successes / trials <= high <= 1
    if successes > 0:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(tail)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(tail)


def test_interval_without_trials_allows_any_rate():
    assert binomial_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95)])
def test_interval_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="must be in"):
        binomial_interval(*arguments)
