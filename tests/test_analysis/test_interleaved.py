"""Variants are timed in turn and compared with another one of the same round."""

import time

import pytest
import torch

from mmpfb.analysis.interleaved import compare, mean_of_rounds, time_in_turn

CPU = torch.device('cpu')


def test_variants_run_in_turn():
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in 'abc'}
    times = time_in_turn(variants, repeats=2, device=CPU, warmup=1)
    assert calls == list('abc') * 3
    assert {name: len(values) for name, values in times.items()} == {'a': 2, 'b': 2, 'c': 2}


def test_times_are_those_of_each_variant_and_the_first_rounds_do_not_count(monkeypatch):
    clock = iter([0, 99, 99, 198, 198, 208, 208, 213, 213, 313, 313, 363])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
    variants = {'full': lambda: None, 'half': lambda: None}
    times = time_in_turn(variants, repeats=2, device=CPU, warmup=1)
    assert times == {'full': [10, 100], 'half': [5, 50]}


@pytest.mark.gpu
def test_a_gpu_is_waited_for():
    device = torch.device('cuda')
    matrix = torch.rand(4096, 4096, device=device)

    def work():
        for _ in range(50):
            matrix @ matrix

    times = time_in_turn({'work': work, 'none': lambda: None}, repeats=3, device=device)
    assert min(times['work']) > 5 * max(times['none'])


def test_saving_is_the_median_of_paired_ratios():
    # The slow round does not count for more.
    result = compare([5, 50, 3], baseline=[10, 100, 10])
    assert result.saved == pytest.approx(0.5)
    assert (result.median, result.lowest, result.highest) == (5, 3, 50)
    assert compare([10, 100], baseline=[10, 100]).saved == 0


def test_the_mean_counts_a_variant_as_often_as_it_is_met():
    times = {'other': [9.0, 9.0], 2: [1.0, 10.0], 3: [2.0, 20.0]}
    assert mean_of_rounds(times, {2: 0.6, 3: 0.4}) == pytest.approx([1.4, 14.0])
    assert mean_of_rounds(times, {3: 1.0}) == [2.0, 20.0]


@pytest.mark.parametrize('repeats', [0, -1, 1.5])
def test_wrong_repeats_are_refused(repeats):
    with pytest.raises(ValueError, match='`repeats` to be an integer of at least 1'):
        time_in_turn({'a': lambda: None}, repeats, CPU)


def test_no_variants_are_refused():
    with pytest.raises(ValueError, match='at least one variant'):
        time_in_turn({}, 1, CPU)


@pytest.mark.parametrize(('times', 'baseline'), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_without_a_partner_are_refused(times, baseline):
    message = f'same number of rounds.* got {len(times)} and {len(baseline)}'
    with pytest.raises(ValueError, match=message):
        compare(times, baseline)
