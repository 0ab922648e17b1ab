"""The folded model is the same function as the model, for any method, size, batch and thread."""

from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cflow_ad.cflow import folded_density
from cflow_ad.cflow import scorer as scorer_module
from cflow_ad.cflow.folded import FoldedLevel, FoldedModel
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.scorer import Scorer
from tests.cflow.fake import make_fake
from tests.cflow.networks import encoder_of, energies_of, make_level, random_pixels

KINDS = {
    "default": {"permutation": "index", "width": 16, "stride": 32, "parts": 4},
    "accurate": {"permutation": "soft", "stride": 32, "parts": 4},
    "one scale": {"permutation": "index", "stride": 32},
    "few components": {"permutation": "index", "stride": 32, "components": 5},
    "memory": {"memory": 12, "stride": 32, "parts": 4},
    "paper": {"permutation": "soft", "whiten": False},
    "no condition": {"permutation": "index", "condition_channels": 0},
    "one block": {"permutation": "soft", "blocks": 1},
    "wide condition": {"permutation": "soft", "condition_channels": 128, "clamp": 0.5},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind="default", **encoder):
    built = encoder_of(**encoder)
    settings = dict(KINDS[kind])
    levels = []
    for spec in built.spec.levels:
        if "stride" in settings:
            settings["stride"] = spec.stride
        level = make_level(spec.channels, **settings)
        level.input_layer.mean.mul_(0.1)
        levels.append(level)
    return CflowModel(built, levels).eval()


@pytest.fixture(scope="module")
def model():
    return model_of()


def relative_error(found, expected):
    """The largest difference, relative to the largest energy and at least 1."""
    return float((found - expected).abs().max() / max(1, float(expected.abs().max())))


# Levels


@every_kind
@pytest.mark.parametrize("channels", [2, 5, 8])
@torch.inference_mode()
def test_a_folded_level_is_the_level(kind, channels):
    level = make_level(channels, **KINDS[kind])
    one = FoldedLevel(level, torch.float32)
    for shape in ((4, 6), (1, 1), (16, 16)):
        features = torch.randn(3, channels, *shape)
        expected = energies_of(level, features)
        if shape[0] > 1:
            assert float((expected > 0).float().mean()) > 0
        found = one(features, one.tables(*shape))
        assert found.shape == (3, *shape)
        assert relative_error(found, expected) < 1e-5


@every_kind
@torch.inference_mode()
def test_log_likelihoods_are_the_levels(kind):
    level = make_level(6, **KINDS[kind])
    one, features = FoldedLevel(level, torch.float32), torch.randn(2, 6, 4, 5)
    z = level.subtract_means(features.permute(0, 2, 3, 1))
    expected = level(z, *level.places(4, 5))
    found = one.log_likelihood(features, one.tables(4, 5))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_kind
@torch.inference_mode()
def test_an_image_has_the_same_energies_alone_and_in_a_batch(kind):
    one = FoldedLevel(make_level(8, **KINDS[kind]), torch.float32)
    features = torch.randn(5, 8, 4, 6)
    tables = one.tables(4, 6)
    together = one(features, tables)
    for number in range(5):
        alone = one(features[number : number + 1], tables)
        assert relative_error(together[number], alone[0]) < 1e-5


@every_kind
@torch.inference_mode()
def test_tables_of_some_rows_are_cut_from_the_whole(kind):
    one = FoldedLevel(make_level(6, **KINDS[kind]), torch.float32)
    features = torch.randn(1, 6, 9, 5)
    whole = one(features, one.tables(9, 5))
    rows = slice(2, 6)
    part = one(features[:, :, rows], one.tables(9, 5, rows))
    torch.testing.assert_close(part, whole[:, rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["default", "accurate"])
@torch.inference_mode()
def test_bf16_is_close(kind):
    level = make_level(32, **KINDS[kind])
    features = torch.randn(2, 32, 16, 16)
    exact, close = (FoldedLevel(level, dtype) for dtype in (torch.float32, torch.bfloat16))
    expected = exact(features, exact.tables(16, 16))
    found = close(features, close.tables(16, 16))
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 0.02 * expected.abs().mean()


# Models


@pytest.mark.parametrize("kind", ["default", "accurate", "paper"])
@pytest.mark.parametrize("encoder", [{}, {"join": True, "average": (16,)}])
@torch.inference_mode()
def test_a_folded_model_is_the_model(kind, encoder):
    model, pixels = model_of(kind, **encoder), random_pixels(2)
    expected = [
        energies_of(level, features)
        for level, features in zip(model, model.encoder(pixels), strict=True)
    ]
    for compute in (FoldedModel(model), Scorer(model)):
        for one, other in zip(compute(pixels), expected, strict=True):
            assert relative_error(one, other) < 1e-5


@torch.inference_mode()
def test_a_scorer_has_the_log_likelihoods_that_the_model_has(model):
    pixels = random_pixels(1)
    for found, level, features in zip(
        Scorer(model).log_likelihoods(pixels), model, model.encoder(pixels), strict=True
    ):
        z = level.subtract_means(features.permute(0, 2, 3, 1))
        expected = level(z, *level.places(*features.shape[2:]))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_bf16_model_is_close(model):
    pixels = random_pixels(1)
    for found, expected in zip(
        FoldedModel(model, "bf16")(pixels), FoldedModel(model)(pixels), strict=True
    ):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().mean() < 0.1 * expected.abs().mean()


@torch.inference_mode()
def test_a_scorer_is_not_affected_by_later_changes_of_the_model():
    model, pixels = model_of(), random_pixels(1)
    scorer = Scorer(model)
    before = scorer(pixels)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(1.0)
    other = random_pixels(1, (64, 64))
    scorer(other)
    for one, other in zip(before, scorer(pixels), strict=True):
        assert torch.equal(one, other)


def test_everything_that_changes_a_score_is_in_the_state(model):
    again = model_of(seed=9)
    for value in again.state_dict().values():
        if value.is_floating_point():
            value.add_(1.0)
    pixels = random_pixels(1)
    before = Scorer(again)(pixels)
    again.load_state_dict(model.state_dict())
    for expected, same, different in zip(
        Scorer(model)(pixels), Scorer(again)(pixels), before, strict=True
    ):
        assert torch.equal(expected, same)
        assert not torch.equal(expected, different)


# Sizes and threads


@torch.inference_mode()
def test_a_large_map_is_computed_in_blocks_of_rows(model, monkeypatch):
    pixels = random_pixels(2, (96, 64))
    expected = Scorer(model)(pixels)
    monkeypatch.setattr(scorer_module, "_AT_ONCE", 20)
    scorer = Scorer(model)
    for one, other in zip(scorer(pixels), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert scorer._tables == {}


@torch.inference_mode()
def test_tables_beyond_the_limit_are_built_again(model, monkeypatch):
    shapes = [(32, 64), (64, 32), (64, 64), (32, 64)]
    kept = Scorer(model)
    expected = [kept(random_pixels(1, shape)) for shape in shapes]
    assert len(kept._tables) == 6  # of two levels and three sizes
    monkeypatch.setattr(scorer_module, "_KEPT", 0)
    scorer = Scorer(model)
    for shape, maps in zip(shapes, expected, strict=True):
        for one, other in zip(scorer(random_pixels(1, shape)), maps, strict=True):
            assert torch.equal(one, other)
    assert len(scorer._tables) == 1


def test_threads_share_a_scorer(model, monkeypatch):
    """Few tables are kept, so that each thread removes tables while others use them."""
    monkeypatch.setattr(scorer_module, "_KEPT", 2**21)
    shapes = [(32 * (1 + i % 5), 32 * (1 + i % 7)) for i in range(35)] * 3
    inputs = [random_pixels(1, shape) for shape in shapes]
    alone = [Scorer(model)(pixels) for pixels in inputs[:35]] * 3
    scorer = Scorer(model)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(scorer, inputs))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# Export


@torch.no_grad()
def test_a_folded_model_exports_as_it_is():
    one, pixels = FoldedModel(model_of("accurate")), random_pixels(1, (64, 64))
    program = torch.export.export(one, (pixels,))
    for found, expected in zip(program.module()(pixels), one(pixels), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["default", "paper"])
@torch.no_grad()
def test_a_folded_model_exports_with_a_dynamic_size(kind):
    one = FoldedModel(model_of(kind))
    height, width = (32 * torch.export.Dim(f"{side}_cells", min=1, max=64) for side in "hw")
    program = torch.export.export(
        one, (random_pixels(1, (64, 96)),), dynamic_shapes=({1: height, 2: width},)
    )
    run = program.module()
    for shape in ((64, 96), (96, 64), (32, 160)):
        pixels = random_pixels(1, shape)
        for found, expected in zip(run(pixels), one(pixels), strict=True):
            assert found.shape == expected.shape
            assert relative_error(found, expected) < 1e-5


def test_energies_do_not_depend_on_the_layout_of_the_pixels(model):
    pixels = random_pixels(1)
    turned = torch.from_numpy(np.asfortranarray(pixels.numpy()))
    for one, other in zip(Scorer(model)(pixels), Scorer(model)(turned), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# Accelerators


@pytest.mark.parametrize("kind", ["default", "accurate", "paper"])
@torch.inference_mode()
def test_products_and_layouts_as_on_a_gpu_are_the_same_function(kind, monkeypatch):
    model, pixels = model_of(kind), random_pixels(3)
    expected = Scorer(model)(pixels)
    monkeypatch.setattr(folded_density, "is_accelerator", lambda device: True)
    for one, other in zip(Scorer(model)(pixels), expected, strict=True):
        assert relative_error(one, other) < 1e-5


@torch.inference_mode()
def test_images_that_come_one_at_a_time_have_the_same_energies(model):
    """By the functions that a GPU has a graph of."""
    scorer = Scorer(model)
    for _ in range(2):
        for shape in ((64, 96), (32, 64)):
            pixels = random_pixels(1, shape)
            for one, other in zip(scorer._one_at_a_time(pixels), scorer(pixels), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_one_image_may_be_tried_again_where_memory_ran_out(model, monkeypatch):
    scorer, pixels = Scorer(model), random_pixels(1)
    expected = scorer(pixels)
    compute, left = FoldedLevel.tables, [1]

    def tables(self, *arguments):
        if not left:
            raise torch.OutOfMemoryError
        left.pop()
        return compute(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(FoldedLevel, "tables", tables)
        with pytest.raises(torch.OutOfMemoryError):
            scorer._one_at_a_time(pixels)
    for one, other in zip(scorer._one_at_a_time(pixels), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_scorer_goes_once_it_is_out_of_use(model):
    """Not when garbage is collected next: it has memory of a GPU."""
    scorer = Scorer(model)
    scorer._one_at_a_time(random_pixels(1))
    folded = weakref.ref(scorer.folded)
    gc.disable()
    try:
        del scorer
        assert folded() is None
    finally:
        gc.enable()


def test_a_level_is_dropped_before_the_next_one_is_encoded(monkeypatch):
    """Those of an image of 100 megapixels take gigabytes together."""
    seen = []
    build = FoldedEncoder._build_level

    def watched(self, level, maps):
        assert all(reference() is None for reference in seen)
        built = build(self, level, maps)
        seen.append(weakref.ref(built))
        return built

    monkeypatch.setattr(FoldedEncoder, "_build_level", watched)
    scorer = Scorer(model_of(join=True, average=(16,)))
    for run in (scorer, scorer.with_vectors, scorer.log_likelihoods):
        run(random_pixels(1))
    assert len(seen) == 6


@pytest.mark.parametrize("kind", ["default", "accurate"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_scorer_stays_on_its_device(kind, precision):
    """Once it has the tables of a size: then it can be captured in a graph."""
    scorer = Scorer(model_of(kind, join=True, average=(16,)), precision=precision)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, Transfers() as transfers:
        make_fake(scorer.folded, mode)
        pixels = torch.empty(2, 64, 64, 3, dtype=torch.uint8, device="cuda")
        scorer(pixels)
        assert transfers.seen  # of the tables
        transfers.seen.clear()
        for energies in scorer(pixels):
            assert energies.device.type == "cuda"
    assert transfers.seen == []


class Transfers(TorchDispatchMode):
    """Lists operations whose result lies on another device than their first tensor."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        first = next((value for value in args if isinstance(value, torch.Tensor)), None)
        if first is not None and isinstance(result, torch.Tensor) and result.device != first.device:
            self.seen.append(function)
        return result
