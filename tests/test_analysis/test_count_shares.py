"""Shares are those that the budget of a long run gives."""

from collections import Counter
from fractions import Fraction

import pytest

from mmpfb.analysis.count_shares import count_shares
from mmpfb.core.budget import RetainedBudget


@pytest.mark.parametrize('ratio', [0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.75, 0.9, 0.99])
@pytest.mark.parametrize('batch_size', [1, 2, 3, 8, 10, 256])
@pytest.mark.parametrize('min_keep', [1, 2, 4])
def test_shares_are_those_of_the_budget(batch_size, ratio, min_keep):
    budget = RetainedBudget()
    met = Counter(budget.take(batch_size, ratio, min_keep) for _ in range(100))
    shares = count_shares(batch_size, ratio, min_keep)
    # All ratios have two decimals, so the remainder is the same again after 100 steps.
    assert {count: share * 100 for count, share in shares.items()} == dict(met)
    assert sum(shares.values()) == 1
    assert list(shares) == sorted(shares)


def test_the_mean_is_exactly_what_the_ratio_retains():
    shares = count_shares(batch_size=8, ratio=0.3)
    assert shares == {5: Fraction(2, 5), 6: Fraction(3, 5)}
    assert sum(count * share for count, share in shares.items()) == Fraction(56, 10)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'batch_size': 0, 'ratio': 0.5}, '`batch_size` to be an integer of at least 1'),
        ({'batch_size': 8, 'ratio': 1.0}, r'`ratio` to be in \[0, 1\)'),
        ({'batch_size': 8, 'ratio': 0.5, 'min_keep': 0}, '`min_keep` to be an integer of at least'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        count_shares(**arguments)
