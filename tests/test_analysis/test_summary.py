import dataclasses
import json

import pytest

from mmpfb.analysis import IterationTimes, PruningSummary, savings
from mmpfb.analysis.summary import LONGEST_HISTORY

FULL = PruningSummary(
    selector='PFB',
    location='backbone.layer3',
    mode='reuse',
    score_scale=1.0,
    ratio=0.5,
    images_seen=20_000,
    images_kept=12_345,
    ratio_over_run=0.38275,
    ratio_while_pruning=0.4996,
    iterations=2_500,
    iterations_pruned=2_125,
    random_share=0.125,
    non_finite_images=3,
    seconds_unpruned=0.8,
    seconds_pruned=0.5,
    seconds_waiting=0.2,
    saved_per_pruned_iteration=0.3,
    saved_over_run=0.255,
    data_loading_share=0.2,
    peak_memory_bytes=3 * 2**29,
)
NOTHING_MEASURED = dataclasses.replace(
    FULL,
    ratio_while_pruning=None,
    random_share=None,
    non_finite_images=0,
    seconds_unpruned=None,
    seconds_pruned=None,
    seconds_waiting=None,
    saved_per_pruned_iteration=None,
    saved_over_run=None,
    data_loading_share=None,
    peak_memory_bytes=None,
)


def line(summary: PruningSummary, name: str) -> str:
    lines = [item for item in summary.to_text().splitlines() if item.strip().startswith(name)]
    assert len(lines) == 1, f'{name}: {lines}'
    return lines[0].strip().removeprefix(name).strip()


def test_the_text_holds_every_number():
    assert FULL.to_text().splitlines()[0] == 'Pruning summary: PFB at backbone.layer3, mode reuse'
    assert line(FULL, 'images seen / kept') == '20,000 / 12,345'
    assert line(FULL, 'ratio really pruned') == (
        '38.3 % over the run, 50.0 % while pruning (asked for: 50.0 %)'
    )
    assert line(FULL, 'iterations pruned') == '2,125 of 2,500'
    assert line(FULL, 'step time unpruned / pruned') == (
        '0.800 s / 0.500 s (median, without waiting for data)'
    )
    assert line(FULL, 'time saved') == '30.0 % per pruned iteration, 25.5 % over the run'
    assert line(FULL, 'data loading') == (
        '20.0 % of an unpruned iteration; pruning does not reduce it'
    )
    assert line(FULL, 'random share').startswith('12.5 % of the kept images')
    assert line(FULL, 'NaN or infinite features') == '3 images'
    assert line(FULL, 'peak GPU memory') == '1.50 GiB'


def test_the_columns_of_the_text_are_aligned():
    rows = FULL.to_text().splitlines()[1:]
    names = ['images seen / kept', 'step time unpruned / pruned', 'data loading']
    starts = {row.index(line(FULL, name)) for name in names for row in rows if name in row}
    assert len(starts) == 1


def test_what_was_not_measured_is_called_so_or_left_out():
    text = NOTHING_MEASURED.to_text()
    assert line(NOTHING_MEASURED, 'time saved') == (
        'not measured per pruned iteration, not measured over the run'
    )
    assert 'not measured while pruning' in line(NOTHING_MEASURED, 'ratio really pruned')
    assert line(NOTHING_MEASURED, 'step time').startswith('unpruned / pruned  not measured / not')
    for name in ('random share', 'NaN', 'GPU', 'None', 'nan'):
        assert name not in text


def test_a_random_share_of_zero_is_a_measurement():
    assert line(dataclasses.replace(FULL, random_share=0.0), 'random share').startswith('0.0 %')


@pytest.mark.parametrize('summary', [FULL, NOTHING_MEASURED])
def test_the_dict_survives_json(summary):
    restored = json.loads(json.dumps(summary.to_dict()))
    assert PruningSummary(**restored) == summary


# Savings


def test_savings_are_shares_of_a_whole_unpruned_iteration():
    result = savings([0.8, 0.7, 0.9], [0.4, 0.6], [0.1, 0.2, 0.3, 0.2], 0.85)
    assert result == pytest.approx(
        {
            'seconds_unpruned': 0.8,
            'seconds_pruned': 0.5,
            'seconds_waiting': 0.2,
            'saved_per_pruned_iteration': 0.3,
            'saved_over_run': 0.255,
            'data_loading_share': 0.2,
        }
    )


def test_one_long_iteration_does_not_count():
    quiet = savings([0.8] * 9, [0.5] * 9, [0.2] * 9, 1.0)
    disturbed = savings([0.8] * 8 + [60.0], [0.5] * 8 + [60.0], [0.2] * 8 + [60.0], 1.0)
    assert disturbed == quiet


def test_a_loader_bound_run_saves_nothing_although_its_steps_are_shorter():
    result = savings([0.1], [0.05], [9.9], 1.0)
    assert result['saved_per_pruned_iteration'] == pytest.approx(0.005)
    assert result['data_loading_share'] == pytest.approx(0.99)


def test_pruning_that_costs_time_is_a_negative_saving():
    assert savings([0.5], [0.6], [0.0], 1.0)['saved_over_run'] == pytest.approx(-0.2)


def test_without_unpruned_steps_nothing_is_compared():
    result = savings([], [0.4], [0.1], 1.0)
    assert result['seconds_pruned'] == 0.4 and result['seconds_waiting'] == 0.1
    for name in ('seconds_unpruned', 'saved_per_pruned_iteration', 'saved_over_run'):
        assert result[name] is None
    assert result['data_loading_share'] is None


def test_without_pruned_steps_only_the_loading_is_known():
    result = savings([0.3], [], [0.1], 0.0)
    assert result['data_loading_share'] == pytest.approx(0.25)
    assert result['seconds_pruned'] is None
    assert result['saved_per_pruned_iteration'] is None and result['saved_over_run'] is None


def test_savings_are_fields_of_the_summary():
    assert dataclasses.replace(FULL, **savings([1.0], [0.5], [0.0], 1.0)).saved_over_run == 0.5


# Iteration times


def test_the_first_iterations_are_left_out():
    times = IterationTimes(warmup=2)
    for step in range(4):
        times.add(float(step), waiting=10.0 + step, pruned=False)
    assert list(times.unpruned) == [2.0, 3.0]
    assert list(times.waiting) == [12.0, 13.0]


def test_pruned_and_unpruned_steps_are_kept_apart():
    times = IterationTimes(warmup=0)
    times.add(1.0, waiting=0.1, pruned=False)
    times.add(2.0, waiting=0.2, pruned=True)
    times.add(3.0, waiting=None, pruned=True)
    assert list(times.unpruned) == [1.0]
    assert list(times.pruned) == [2.0, 3.0]
    assert list(times.waiting) == [0.1, 0.2]


def test_the_memory_is_bounded_and_the_latest_iterations_stay():
    times = IterationTimes(warmup=0)
    for step in range(LONGEST_HISTORY + 10):
        times.add(float(step), waiting=float(step), pruned=step % 2 == 0)
        times.add(float(step), waiting=None, pruned=True)
    assert len(times.pruned) == len(times.waiting) == LONGEST_HISTORY
    assert times.pruned[-1] == times.waiting[-1] == LONGEST_HISTORY + 9
