"""Variants are timed in turn and compared with the first one of their own round."""

import time

import pytest
import torch

from mmpfb.analysis.interleaved import compare_interleaved

CPU = torch.device('cpu')


def test_variants_run_in_turn():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in 'abc'}
    compare_interleaved(variants, repeats=2, device=CPU, warmup=1)
    assert calls == list('abc') * 3


def test_saving_is_the_median_of_paired_ratios(monkeypatch):
    clock = iter([0, 10, 10, 15, 15, 115, 115, 165, 165, 175, 175, 178])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
    result = compare_interleaved(
        {'full': lambda: None, 'half': lambda: None}, repeats=3, device=CPU, warmup=0
    )
    # Rounds of 10/5, 100/50 and 10/3 seconds: the slow round does not count for more.
    assert result['half'].saved == pytest.approx(0.5)
    assert result['full'].saved == 0
    assert (result['full'].median, result['full'].highest) == (10, 100)


@pytest.mark.parametrize('repeats', [0, -1, 1.5])
def test_wrong_repeats_are_refused(repeats):
    with pytest.raises(ValueError, match='`repeats` to be an integer of at least 1'):
        compare_interleaved({'a': lambda: None}, repeats, CPU)


def test_no_variants_are_refused():
    with pytest.raises(ValueError, match='at least one variant'):
        compare_interleaved({}, 1, CPU)
