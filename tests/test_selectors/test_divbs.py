import pytest
import torch

from mmpfb.core.randomness import generator_for
from mmpfb.selectors import DivBS, Needs, build_selector
from tests.oracles import selection as oracle


@pytest.mark.parametrize('greedy', [True, False])
@pytest.mark.parametrize('seed', range(10))
def test_it_is_the_rule_written_as_a_loop(greedy, seed):
    gradients = torch.randn(8, 30, generator=generator_for(seed)).double()
    count = 1 + seed % 7
    selection = DivBS(greedy).select(gradients @ gradients.T, count, generator_for(seed, 1))
    uniform = torch.rand(count, 8, generator=generator_for(seed, 1))
    expected = oracle.divbs(gradients, count, None if greedy else uniform.double())
    assert selection.keep.tolist() == expected
    assert selection.score.shape == (8,)


def test_one_image_can_be_retained_of_one():
    assert DivBS().select(torch.ones(1, 1), 1, generator_for(0)).keep.tolist() == [0]


def test_it_needs_gradients():
    assert DivBS.needs is Needs.GRADIENTS and DivBS.needs.whole_network


def test_greedy_is_a_truth_value():
    with pytest.raises(ValueError, match="argument `greedy` to be True or False, but got 'no'"):
        build_selector({'type': 'DivBS', 'greedy': 'no'})
