"""Laws of the fixed first layer: what it takes out, and that it can be put back."""

from __future__ import annotations

import pytest
import torch

from cflow_ad.cflow.whitening import InputLayer, fit_input_layer
from cflow_ad.errors import DivergenceError

KINDS = ["whiten", "standardise", "raw"]


@pytest.fixture
def vectors():
    """Correlated, far from 0, with channels that differ in scale by orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    scale = torch.tensor([0.1, 0.1, 1.0, 1.0, 10.0, 10.0])
    return (torch.randn(4000, 6, generator=generator) @ mixing) * scale + 50.0


def fit(kind, *chunks, shrinkage=1e-9):
    return fit_input_layer(kind, chunks, chunks[0].shape[1], shrinkage=shrinkage)


def test_whitened_vectors_have_no_mean_and_the_identity_as_covariance(vectors):
    white = fit("whiten", vectors).double()(vectors.double())
    torch.testing.assert_close(white.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(white.T.cov(), torch.eye(6).double(), rtol=0, atol=1e-3)


def test_whitening_is_symmetric(vectors):
    """Of all whitening maps, the symmetric one stays closest to the vectors themselves."""
    matrix = fit("whiten", vectors).matrix
    torch.testing.assert_close(matrix, matrix.T)


def test_standardised_channels_have_no_mean_and_unit_variance(vectors):
    standard = fit("standardise", vectors).double()(vectors.double())
    torch.testing.assert_close(standard.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(standard.var(0), torch.ones(6).double(), rtol=0, atol=1e-3)
    assert standard.T.corrcoef().triu(1).abs().max() > 0.1  # correlations are left


def test_raw_is_the_identity_and_looks_at_no_vector(vectors):
    layer = fit_input_layer("raw", iter([]), 6, shrinkage=1e-4)
    assert torch.equal(layer(vectors), vectors)
    assert layer.log_det == 0


@pytest.mark.parametrize("kind", KINDS)
def test_log_det_is_that_of_the_jacobian(kind, vectors):
    layer = fit(kind, vectors, shrinkage=1e-4).double()
    jacobian = torch.autograd.functional.jacobian(layer, vectors[0].double())
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(layer.log_det, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_inverse_undoes_forward(kind, shape, vectors):
    layer = fit(kind, vectors, shrinkage=1e-4).double()
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.inverse(layer(z)), z)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_matter(kind, vectors):
    whole = fit(kind, vectors)
    for sizes in ([1] * 5 + [3995], [1000] * 4, [3999, 1]):
        parts = fit(kind, *vectors.split(sizes))
        torch.testing.assert_close(parts.mean, whole.mean)
        torch.testing.assert_close(parts.matrix, whole.matrix, rtol=1e-4, atol=1e-4)


def test_a_large_mean_costs_no_digits(vectors):
    """A shift that single precision holds exactly changes the mean and nothing else."""
    exact = (vectors * 64).round() / 64
    near, far = fit("whiten", exact), fit("whiten", exact + 4096)
    torch.testing.assert_close(far.mean, near.mean + 4096)
    torch.testing.assert_close(far.matrix, near.matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["whiten", "standardise"])
def test_constant_channels_do_not_blow_up(kind, vectors):
    dead = torch.cat([vectors, torch.full((4000, 2), 3.0)], dim=1)
    layer = fit(kind, dead, shrinkage=1e-4)
    assert layer(dead).isfinite().all()
    assert layer(dead).abs().max() < 100
    assert layer.log_det.isfinite()
    # The shrinkage bounds how much any direction is magnified.
    mean_variance = dead.double().var(0, correction=0).mean()
    gain = torch.linalg.matrix_norm(torch.atleast_2d(layer.matrix), 2)
    gain = layer.matrix.max() if kind == "standardise" else gain
    assert gain <= 1.001 / (1e-4 * mean_variance).sqrt()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_vectors_is_enough(kind, count, vectors):
    few = vectors[:count]
    layer = fit(kind, few, shrinkage=1e-4)
    assert layer(few).isfinite().all()
    assert layer.log_det.isfinite()


@pytest.mark.parametrize("kind", ["whiten", "standardise"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_are_refused(kind, value, vectors):
    vectors[17, 3] = value
    with pytest.raises(DivergenceError, match="not finite"):
        fit(kind, vectors)


def test_the_layer_is_kept_with_the_model_and_never_trained(vectors):
    layer = fit("whiten", vectors)
    assert set(layer.state_dict()) == {"mean", "matrix"}
    assert list(layer.parameters()) == []
    again = InputLayer(torch.empty(6), torch.empty(6, 6))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(vectors), layer(vectors))
