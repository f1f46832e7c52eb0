import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpfb.core.schedule import (
    PruningWindow,
    check_window,
    linear_between,
    resolve_window,
    scheduled_ratio,
)

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)


def test_the_window_holds_its_begin_and_not_its_end():
    window = PruningWindow(3, 6)
    assert [iteration for iteration in range(10) if iteration in window] == [3, 4, 5]


@pytest.mark.parametrize(
    ('begin', 'end', 'by', 'expected'),
    [
        (0.05, 0.9, 'fraction', (50, 900)),
        (0, 1, 'fraction', (0, 1000)),
        (10, 20, 'iter', (10, 20)),
        (0, 1000, 'iter', (0, 1000)),
        (1, 3, 'epoch', (40, 120)),
        (2.0, 25.0, 'epoch', (80, 1000)),
    ],
)
def test_units_are_translated_to_iterations(begin, end, by, expected):
    window = resolve_window(begin, end, by, total_iterations=1000, iterations_per_epoch=40)
    assert (window.begin, window.end) == expected
    assert type(window.begin) is int and type(window.end) is int


@EXAMPLES
@given(
    borders=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    total=st.integers(1, 10_000),
)
def test_a_fraction_becomes_the_nearest_iterations_or_is_refused(borders, total):
    begin, end = borders
    try:
        window = resolve_window(begin, end, 'fraction', total, 1)
    except ValueError:
        assert end * total - begin * total <= 1
        return
    assert 0 <= window.begin < window.end <= total
    assert abs(window.begin - begin * total) <= 0.5
    assert abs(window.end - end * total) <= 0.5


def test_an_unknown_unit_is_refused():
    message = r"Expected argument `by` to be one of 'fraction', 'iter', 'epoch', but got 'step'\."
    with pytest.raises(ValueError, match=message):
        check_window(0, 1, 'step')
    with pytest.raises(ValueError, match=message):
        resolve_window(0, 1, 'step', 10, 10)


@pytest.mark.parametrize(('begin', 'end', 'by'), [(0.5, 0.5, 'fraction'), (7, 3, 'iter')])
def test_a_begin_that_is_not_before_the_end_is_refused(begin, end, by):
    message = f'`begin` to be less than `end`, but got begin={begin}, end={end}'
    with pytest.raises(ValueError, match=message):
        check_window(begin, end, by)


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan'), float('inf'), None, '0.5', True])
def test_a_fraction_outside_of_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match=r'Expected argument `begin` to be in \[0, 1\], but got '):
        check_window(value, 1.0, 'fraction')
    with pytest.raises(ValueError, match=r'Expected argument `end` to be in \[0, 1\], but got '):
        check_window(0.0, value, 'fraction')


@pytest.mark.parametrize('value', [-1, float('nan'), float('inf')])
def test_a_border_that_no_run_has_is_refused(value):
    message = 'Expected argument `end` to be a finite number of at least 0, but got '
    with pytest.raises(ValueError, match=message):
        check_window(0, value, 'iter')


@pytest.mark.parametrize('by', ['iter', 'epoch'])
def test_a_broken_number_of_iterations_or_epochs_is_refused(by):
    message = f"Expected argument `begin` to be a whole number with by='{by}', but got 0.5"
    with pytest.raises(ValueError, match=message):
        check_window(0.5, 3, by)


@pytest.mark.parametrize(('end', 'by', 'iteration'), [(101, 'iter', 101), (11, 'epoch', 110)])
def test_an_end_after_the_run_is_refused(end, by, iteration):
    message = (
        'Expected argument `end` to lie inside the run of 100 iterations, '
        f"but got end={end} with by='{by}', which is iteration {iteration}"
    )
    with pytest.raises(ValueError, match=message):
        resolve_window(0, end, by, total_iterations=100, iterations_per_epoch=10)


def test_a_window_without_an_iteration_is_refused():
    with pytest.raises(ValueError, match='at least one iteration between `begin` and `end`'):
        resolve_window(0.50, 0.51, 'fraction', total_iterations=10, iterations_per_epoch=10)


WINDOW = PruningWindow(100, 200)


def test_without_a_ramp_the_ratio_is_constant_in_the_window_and_zero_outside():
    ratios = [scheduled_ratio(t, WINDOW, 0.3) for t in range(300)]
    assert ratios == [0.0] * 100 + [0.3] * 100 + [0.0] * 100


def test_the_ramp_rises_linearly_and_stays():
    ratios = [scheduled_ratio(t, WINDOW, 0.5, ramp=0.5, ramp_from=0.2) for t in range(100, 200)]
    assert ratios[0] == pytest.approx(0.1)
    assert ratios[25] == pytest.approx(0.3)
    assert ratios[50:] == [0.5] * 50
    steps = [b - a for a, b in zip(ratios[:50], ratios[1:51], strict=True)]
    assert steps == pytest.approx([0.4 / 50] * 50)


def test_a_ramp_over_the_whole_window_ends_just_below_the_ratio():
    assert scheduled_ratio(199, WINDOW, 0.5, ramp=1.0) == pytest.approx(0.495)


@EXAMPLES
@given(
    iteration=st.integers(0, 300),
    ratio=st.floats(0, 0.99),
    ramp=st.floats(0, 1),
    ramp_from=st.floats(0, 1),
)
def test_a_scheduled_ratio_never_exceeds_the_ratio(iteration, ratio, ramp, ramp_from):
    value = scheduled_ratio(iteration, WINDOW, ratio, ramp, ramp_from)
    assert 0 <= value <= ratio * (1 + 1e-12)
    assert iteration in WINDOW or value == 0


@pytest.mark.parametrize('window', [PruningWindow(4, 5), PruningWindow(0, 9)])
def test_a_linear_value_has_its_ends_in_the_first_and_last_pruned_iteration(window):
    values = [linear_between(t, window, 3.0, -1.0) for t in range(12)]
    assert values[window.begin] == 3.0
    if window.end - window.begin > 1:
        assert values[window.end - 1] == -1.0
        steps = {round(a - b, 9) for a, b in itertools.pairwise(values[window.begin : window.end])}
        assert steps == {0.5}
        assert values[window.end :] == [-1.0] * (12 - window.end)
    assert values[: window.begin] == [3.0] * window.begin


@pytest.mark.parametrize('name', ['ramp', 'ramp_from'])
@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan')])
def test_a_ramp_outside_of_the_unit_interval_is_refused(name, value):
    with pytest.raises(ValueError, match=rf'Expected argument `{name}` to be in \[0, 1\], but '):
        scheduled_ratio(100, WINDOW, 0.5, **{name: value})


def test_a_ratio_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'Expected argument `ratio` to be in \[0, 1\), but got'):
        scheduled_ratio(0, WINDOW, 1.0)
