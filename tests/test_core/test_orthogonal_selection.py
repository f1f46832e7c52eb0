from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmpfb.core.orthogonal_selection import select_orthogonal
from tests.oracles import selection as oracle

EXAMPLES = settings(deadline=None, derandomize=True)


def gradients_of(size, dim, seed):
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed)).double()


def noise(count, size, seed):
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)).double()


@EXAMPLES
@given(
    size=st.integers(1, 9), dim=st.integers(1, 12), seed=st.integers(0, 10_000),
    share=st.floats(0, 1), greedy=st.booleans(),
)
def test_it_is_gram_schmidt_on_the_gradients(size, dim, seed, share, greedy):
    gradients = gradients_of(size, dim, seed)
    # With more images than dimensions nothing is left to be explained and rounding decides.
    count = max(1, min(round(share * size), dim))
    uniform = None if greedy else noise(count, size, seed)
    kept, score = select_orthogonal(gradients @ gradients.T, count, uniform)
    assert kept.tolist() == oracle.divbs(gradients, count, uniform)
    torch.testing.assert_close(score, (gradients @ gradients.mean(0)).abs())


def test_copies_of_a_chosen_gradient_come_last():
    gradients = torch.eye(3).double()[[0, 0, 0, 1, 2]]
    kept, _ = select_orthogonal(gradients @ gradients.T, 3)
    assert kept.tolist() == [0, 3, 4]


@pytest.mark.parametrize('greedy', [True, False])
def test_the_count_is_exact_when_nothing_is_left_to_explain(greedy):
    for gradients in (torch.zeros(5, 4).double(), torch.ones(5, 4).double()):
        for count in range(1, 6):
            uniform = None if greedy else noise(count, 5, count)
            kept, _ = select_orthogonal(gradients @ gradients.T, count, uniform)
            assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == count


def test_equal_gradients_are_drawn_alike():
    gradients = torch.ones(4, 3).double()
    counts = Counter()
    for seed in range(1500):
        counts.update(select_orthogonal(gradients @ gradients.T, 2, noise(2, 4, seed))[0].tolist())
    assert chisquare([counts[image] for image in range(4)]).pvalue > 1e-3


def test_the_first_image_is_drawn_in_proportion_to_what_it_explains():
    gradients = gradients_of(5, 8, seed=3)
    chances = (gradients @ gradients.mean(0)).abs()
    counts = Counter(
        select_orthogonal(gradients @ gradients.T, 1, noise(1, 5, seed))[0].item()
        for seed in range(3000)
    )
    expected = (3000 * chances / chances.sum()).tolist()
    assert chisquare([counts[image] for image in range(5)], expected).pvalue > 1e-3


def test_images_whose_gradients_are_not_finite_are_always_kept():
    gradients = gradients_of(6, 8, seed=1)
    gradients[4] = torch.nan
    gradients[1] = torch.inf
    for seed in range(20):
        kept = select_orthogonal(gradients @ gradients.T, 3, noise(3, 6, seed))[0].tolist()
        assert {1, 4} <= set(kept) and len(kept) == 3


def test_the_scale_of_the_gradients_does_not_matter():
    gradients = gradients_of(8, 20, seed=5)
    uniform = noise(4, 8, 0)
    expected = select_orthogonal(gradients @ gradients.T, 4, uniform)[0]
    for scale in (1e-12, 1e12):
        scaled = gradients * scale
        assert torch.equal(select_orthogonal(scaled @ scaled.T, 4, uniform)[0], expected)
