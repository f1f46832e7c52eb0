"""Overlap and rank correlation against hand counts and scipy."""

import pytest
import torch
from scipy.stats import spearmanr

from mmpfb.analysis.agreement import overlap, rank_correlation


@pytest.mark.parametrize(
    ('first', 'second', 'expected'),
    [([1, 2], [2, 1], 1.0), ([1, 2], [3, 4], 0.0), ([0, 1, 2], [2, 5, 6], 1 / 3)],
)
def test_overlap(first, second, expected):
    assert overlap(first, second) == pytest.approx(expected)


def test_overlap_of_nothing_is_refused():
    with pytest.raises(ValueError, match='`first` to hold an image'):
        overlap([], [1])


@pytest.mark.parametrize('ties', [False, True])
def test_rank_correlation_is_scipys(ties):
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 8, 50):
        first = torch.randn(size, generator=generator)
        second = first + torch.randn(size, generator=generator)
        if ties:
            first, second = first.round(), second.round()
        expected = spearmanr(first.numpy(), second.numpy()).statistic
        assert rank_correlation(first, second) == pytest.approx(expected, nan_ok=True)


def test_rank_correlation_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r'one shape, but got \(3,\) and \(4,\)'):
        rank_correlation(torch.ones(3), torch.ones(4))
