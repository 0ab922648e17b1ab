"""Laws of the fixed first layer: what it removes, and by how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cflow_ad.cflow.whitening import SHRINKAGE, InputLayer, fit_whitening, raw_layer
from cflow_ad.errors import DivergenceError


@pytest.fixture
def vectors():
    """Correlated, far from 0, with channels that differ in scale by orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    scale = torch.tensor([0.1, 0.1, 1.0, 1.0, 10.0, 10.0])
    return (torch.randn(4000, 6, generator=generator) @ mixing) * scale + 50.0


def fit(*chunks, components=6):
    return fit_whitening(chunks, components)


def shrunk_covariance(vectors):
    covariance = vectors.double().T.cov(correction=0)
    return covariance + SHRINKAGE * covariance.diagonal().mean() * torch.eye(6)


@pytest.mark.parametrize("components", [6, 3])
def test_whitened_vectors_have_no_mean_and_the_identity_as_shrunk_covariance(components, vectors):
    layer = fit(vectors, components=components).double()
    white = layer(vectors.double())
    assert white.shape == (4000, components)
    torch.testing.assert_close(white.mean(0), torch.zeros_like(white[0]), rtol=0, atol=1e-3)
    found = layer.matrix @ shrunk_covariance(vectors) @ layer.matrix.T
    torch.testing.assert_close(found, torch.eye(components).double(), rtol=0, atol=1e-3)


def test_the_components_kept_hold_the_most_of_the_standardised_vectors(vectors):
    """scikit-learn's principal components of the vectors at one scale are the oracle."""
    vectors = (vectors - 50) / vectors.std(0)  # the shrinkage would else show
    expected = PCA(3).fit_transform(vectors.numpy())
    found = fit(vectors * torch.arange(1, 7), components=3)(vectors * torch.arange(1, 7)).flip(1)
    assert np.abs(np.corrcoef(found.T, expected.T)[:3, 3:]) == pytest.approx(np.eye(3), abs=1e-2)


def test_with_all_components_each_number_stays_closest_to_its_own_channel(vectors):
    """Of all whitening maps of standardised vectors, the symmetric one is closest to them."""
    matrix = fit(vectors).matrix * shrunk_covariance(vectors).diagonal().sqrt().float()
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-4)


def test_the_raw_layer_is_the_identity(vectors):
    layer = raw_layer(6)
    assert torch.equal(layer(vectors), vectors)
    assert layer.log_det == 0


@pytest.mark.parametrize("kind", ["whitening", "raw"])
def test_log_det_is_that_of_the_jacobian(kind, vectors):
    layer = (fit(vectors) if kind == "whitening" else raw_layer(6)).double()
    jacobian = torch.autograd.functional.jacobian(layer, vectors[0].double())
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(layer.log_det, expected)


def test_log_det_of_fewer_components_is_that_on_the_space_they_span(vectors):
    layer = fit(vectors, components=3).double()
    basis = torch.linalg.qr(layer.matrix.T).Q  # of that space, orthonormal
    jacobian = torch.autograd.functional.jacobian(
        lambda at: layer(layer.mean + basis @ at), torch.zeros(3).double()
    )
    torch.testing.assert_close(layer.log_det, torch.linalg.slogdet(jacobian).logabsdet)


def test_chunks_do_not_matter(vectors):
    whole = fit(vectors)
    for sizes in ([1] * 5 + [3995], [1000] * 4, [3999, 1]):
        parts = fit(*vectors.split(sizes))
        torch.testing.assert_close(parts.mean, whole.mean)
        torch.testing.assert_close(parts.matrix, whole.matrix, rtol=1e-4, atol=1e-4)


def test_a_large_mean_costs_no_digits(vectors):
    """A shift that single precision holds exactly changes the mean and nothing else."""
    exact = (vectors * 64).round() / 64
    near, far = fit(exact), fit(exact + 4096)
    torch.testing.assert_close(far.mean, near.mean + 4096)
    torch.testing.assert_close(far.matrix, near.matrix, rtol=1e-4, atol=1e-4)


def test_constant_channels_are_magnified_within_a_bound(vectors):
    dead = torch.cat([vectors, torch.full((4000, 2), 3.0)], dim=1)
    layer = fit(dead)
    assert layer(dead).isfinite().all()
    assert layer(dead).abs().max() < 100
    assert layer.log_det.isfinite()
    mean_variance = dead.double().var(0, correction=0).mean()
    gain = torch.linalg.matrix_norm(layer.matrix, 2)
    assert gain <= 1.001 / (SHRINKAGE * mean_variance).sqrt()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_vectors_is_enough(count, vectors):
    layer = fit(vectors[:count])
    assert layer(vectors[:count]).isfinite().all()
    assert layer.log_det.isfinite()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_are_refused(value, vectors):
    vectors[17, 3] = value
    with pytest.raises(DivergenceError, match="not finite"):
        fit(vectors)


def test_the_layer_is_stored_with_the_model_and_never_trained(vectors):
    layer = fit(vectors)
    assert set(layer.state_dict()) == {"mean", "matrix"}
    assert list(layer.parameters()) == []
    again = InputLayer(torch.empty(6), torch.empty(6, 6))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(vectors), layer(vectors))
