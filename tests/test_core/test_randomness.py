import itertools
import random

import numpy as np
import torch

from mmpfb.core.randomness import generator_for


def draw(*coordinates: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator_for(*coordinates)).tolist())


def test_the_same_coordinates_give_the_same_numbers():
    assert draw(3, 1, 20) == draw(3, 1, 20)


def test_seed_rank_and_iteration_each_matter():
    coordinates = list(itertools.product(range(6), repeat=3))
    assert len({draw(*item) for item in coordinates}) == len(coordinates)


def test_coordinates_are_not_glued_together():
    assert len({draw(1, 11), draw(11, 1), draw(1, 1, 1), draw(111)}) == 4


def test_any_integer_is_a_seed():
    for seed in (0, -1, 2**31, 2**63, 2**70, -(2**64)):
        assert 0 <= draw(seed)[0] < 1


def test_neighbouring_iterations_are_independent():
    first = torch.tensor([draw(0, 0, iteration)[0] for iteration in range(4000)])
    assert abs(float(first.mean()) - 0.5) < 0.02
    correlation = torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]
    assert abs(float(correlation)) < 0.06


def test_global_generators_are_left_alone():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    draw(0, 0, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_the_numbers_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = draw(5, 0, 1)
    torch.manual_seed(2)
    assert draw(5, 0, 1) == first
