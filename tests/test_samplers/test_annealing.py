"""The end of a run of InfoBatch: full passes without weights, whatever its length."""

import math
from fractions import Fraction

import pytest
import torch

from mmpfb.samplers import InfoBatch

from .methods import Training


@pytest.mark.parametrize('epochs', [1, 2, 3, 8, 36, 90, 200, 300])
@pytest.mark.parametrize('anneal', [0.875, 0.9, 1.0])
def test_passes_at_the_end_are_full_and_without_weights(epochs, anneal):
    sampler = InfoBatch(range(12), 0.5, anneal=anneal, seed=0)
    sampler.set_run_length(epochs)
    training = Training(sampler, batch_size=12)
    full = []
    for epoch in range(epochs):
        start = len(training.trace)
        training.run_pass(epoch)
        weighted = any(weights is not None for _, weights in training.trace[start:])
        full.append(sampler.lengths[epoch] == 12)
        assert weighted is not full[-1]
    first = math.ceil(Fraction(str(anneal)) * epochs)
    expected = [epoch == 0 or epoch >= first for epoch in range(epochs)]
    if anneal < 1:
        expected[-1] = True
    assert full == expected


@pytest.mark.parametrize('length', [1, 20, 39, 40, 55, 100, 333])
@pytest.mark.parametrize('anneal', [0.875, 0.5, 1.0])
def test_no_run_of_an_infinite_sampler_ends_with_a_pruned_pass(length, anneal):
    sampler = InfoBatch(range(20), 0.5, anneal=anneal, infinite=True, seed=0)
    sampler.set_run_length(length, by='index')
    Training(sampler, batch_size=1).run(length)
    starts = [sum(sampler.lengths[:number]) for number in range(len(sampler.lengths))]
    for number, (start, span) in enumerate(zip(starts, sampler.lengths, strict=True)):
        if anneal == 1:
            assert (span == 20) == (number == 0)
        elif number and start >= anneal * length:
            assert span == 20
        elif number and span < 20:
            assert start + span < length
    if anneal < 1:
        assert sampler.lengths[-1] == 20
        if length >= 100:
            assert min(sampler.lengths) < 20


def test_a_run_of_unknown_length_cannot_end_with_full_passes():
    sampler = InfoBatch(range(4), seed=0)
    sampler.observe(torch.arange(4), torch.arange(4.0))
    sampler.set_epoch(1)
    with pytest.raises(RuntimeError, match='the length of the run to be known'):
        list(sampler)
    never = InfoBatch(range(4), anneal=1, seed=0)
    never.observe(torch.arange(4), torch.arange(4.0))
    never.set_epoch(1)
    assert len(list(never)) == 3


def test_a_length_that_is_none_is_refused():
    sampler = InfoBatch(range(4))
    with pytest.raises(ValueError, match='`length` to be an integer of at least 1'):
        sampler.set_run_length(0)
    with pytest.raises(ValueError, match="`by` to be one of 'pass', 'index'"):
        sampler.set_run_length(3, by='epoch')
