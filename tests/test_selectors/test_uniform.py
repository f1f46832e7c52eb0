import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from mmpfb.core.randomness import generator_for
from mmpfb.errors import EstimatorStateError
from mmpfb.selectors import Needs, Uniform


def kept(batch_size: int, count: int, iteration: int) -> tuple[int, ...]:
    features = torch.empty(batch_size, 0)
    selection = Uniform().select(features, count, generator_for(0, 0, iteration))
    return tuple(selection.keep.tolist())


@pytest.mark.parametrize('batch_size', [1, 2, 7, 16])
def test_the_count_is_exact_and_the_indices_are_ascending_and_distinct(batch_size):
    for count in range(1, batch_size + 1):
        keep = kept(batch_size, count, iteration=count)
        assert len(keep) == count
        assert list(keep) == sorted(set(keep))
        assert set(keep) <= set(range(batch_size))


def test_every_subset_has_the_same_chance():
    observed = Counter(kept(6, 3, iteration) for iteration in range(2000))
    subsets = list(itertools.combinations(range(6), 3))
    assert set(observed) == set(subsets)
    assert chisquare([observed[subset] for subset in subsets]).pvalue > 1e-3


def test_the_features_are_not_looked_at():
    assert Uniform.needs is Needs.NOTHING
    generators = generator_for(3), generator_for(3)
    empty = Uniform().select(torch.empty(8, 0), 3, generators[0])
    broken = Uniform().select(torch.full((8, 4), torch.nan), 3, generators[1])
    assert torch.equal(empty.keep, broken.keep)


def test_seed_rank_and_iteration_decide_alone():
    def choice(*coordinates):
        return tuple(Uniform().select(torch.empty(32, 0), 16, generator_for(*coordinates)).keep)

    coordinates = list(itertools.product(range(3), repeat=3))
    choices = {tuple(map(int, choice(*item))) for item in coordinates}
    assert len(choices) == len(coordinates)
    assert torch.equal(torch.stack(choice(1, 2, 0)), torch.stack(choice(1, 2, 0)))


def test_global_generators_are_left_alone():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    kept(8, 4, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_it_is_ready_at_once_and_has_no_state():
    selector = Uniform()
    assert selector.ready and selector.state_dict() == {} and selector.metrics() == {}
    with pytest.raises(EstimatorStateError, match='empty state for Uniform'):
        selector.load_state_dict({'centroids': None})


def test_it_reports_no_random_share():
    selection = Uniform().select(torch.empty(4, 0), 2, generator_for(0))
    assert selection.stats == {} and selection.score is None and selection.weight is None
