from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmpfb.core.randomness import generator_for
from mmpfb.selectors import HighLoss, Needs
from tests.oracles import selection as oracle

LOSSES = st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, 7.5]), min_size=1, max_size=9)


def kept(losses, count, *coordinates):
    features = torch.tensor(losses)[:, None]
    return HighLoss().select(features, count, generator_for(*coordinates)).keep.tolist()


@settings(deadline=None, derandomize=True)
@given(losses=LOSSES, share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_it_is_the_rule_written_as_a_loop(losses, share, seed):
    count = max(1, round(share * len(losses)))
    uniforms = torch.rand(len(losses), generator=generator_for(seed)).tolist()
    assert kept(losses, count, seed) == oracle.high_loss(losses, uniforms, count)


def test_one_image_is_drawn_with_the_weight_of_its_rank():
    losses = [3.0, 0.1, 2.0, 5.0]
    counts = Counter(kept(losses, 1, seed)[0] for seed in range(4000))
    ranks = [2, 0, 1, 3]
    weights = [((rank + 0.5) / 4) ** 3 for rank in ranks]
    expected = [4000 * weight / sum(weights) for weight in weights]
    assert chisquare([counts[image] for image in range(4)], expected).pvalue > 1e-3


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_an_image_without_a_finite_loss_is_always_kept(bad):
    assert all(2 in kept([9.0, 8.0, bad, 7.0], 1, seed) for seed in range(20))


def test_retaining_all_keeps_all():
    assert kept([2.0, 1.0, 3.0], 3, 0) == [0, 1, 2]


def test_it_needs_the_losses_and_reports_them():
    assert HighLoss.needs is Needs.LOSSES and HighLoss.needs.whole_network
    losses = torch.tensor([1.0, 2.0, 3.0])
    selection = HighLoss().select(losses[:, None], 2, generator_for(0))
    assert torch.equal(selection.score, losses) and selection.weight is None
