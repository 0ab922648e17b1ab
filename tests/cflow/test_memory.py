"""Laws of the memory: the distance to the nearest vector, and vectors far from each other."""

from __future__ import annotations

import pytest
import torch

from cflow_ad.cflow.memory import Memory, choose_spread


@pytest.fixture
def memory():
    torch.manual_seed(0)
    return Memory(torch.randn(20, 6))


def test_the_likelihood_is_minus_the_distance_to_the_nearest(memory):
    x = 3 * torch.randn(4, 5, 6)
    expected = -torch.cdist(x.double(), memory.vectors.double()).amin(-1)
    found = memory.log_prob(x)
    assert found.shape == (4, 5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_offsets_are_subtracted_from_squared_distances(memory):
    offsets = 5 * torch.rand(20)
    x = 2 * torch.randn(50, 6)
    apart = torch.cdist(x.double(), memory.vectors.double()).square() - offsets
    expected = -apart.amin(-1).clamp(min=0).sqrt()
    found = Memory(memory.vectors, offsets).log_prob(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    assert (expected == 0).any()
    assert (expected < 0).any()
    others = torch.cdist(x, memory.vectors).argmin(-1) != apart.argmin(-1)
    assert others.any()  # with a larger offset, one further away may count


def test_a_vector_of_the_memory_is_the_likeliest(memory):
    assert memory.log_prob(memory.vectors).abs().max() < 2e-3


def test_some_vectors_are_left_out_for_some(memory):
    x = memory.vectors[:2]
    without = torch.zeros(2, 20, dtype=torch.bool)
    without[0, 0] = True
    found = memory.log_prob(x, without=without)
    others = Memory(memory.vectors[1:])
    torch.testing.assert_close(found[0], others.log_prob(x[0]))
    assert found[1].abs() < 2e-3


def test_as_many_vectors_are_loaded_as_were_saved(memory):
    empty = Memory(torch.empty(0, 6, device="meta"))
    memory.offsets.uniform_()
    empty.load_state_dict(memory.state_dict(), assign=True)
    assert torch.equal(empty.vectors, memory.vectors)
    assert torch.equal(empty.offsets, memory.offsets)
    for other in (torch.empty(20, 5), torch.empty(20), torch.empty(1, 6)[:0]):
        with pytest.raises(RuntimeError, match="vectors"):
            Memory(torch.ones(1, 6)).load_state_dict({"vectors": other, "offsets": torch.ones(20)})
    for other in (torch.ones(19), torch.ones(20, 1)):
        with pytest.raises(RuntimeError, match="offsets"):
            Memory(torch.ones(1, 6)).load_state_dict({"vectors": memory.vectors, "offsets": other})


def test_chosen_vectors_cover_the_others_better_than_random_ones():
    """Many vectors in one place and some far from it: each of these is kept."""
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn(2000, 8, generator=generator)
    rare = 30 * torch.randn(10, 8, generator=generator)
    vectors = torch.cat((crowd, rare))
    chosen = choose_spread(vectors, 40, seed=0)
    assert len(set(chosen.tolist())) == 40
    assert set(range(2000, 2010)) <= set(chosen.tolist())
    at_random = torch.randperm(len(vectors), generator=generator)[:40]
    radius, of_random = (
        -Memory(vectors[some]).log_prob(vectors).min() for some in (chosen, at_random)
    )
    assert radius < 0.5 * of_random


def test_a_seed_names_the_choice():
    vectors = torch.randn(300, 80)
    chosen = [choose_spread(vectors, 20, seed).tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
