from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpfb.core.budget import RetainedBudget, exact_ratio, retained_count

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)

# A ratio as a user writes it, and any float at all. Nearer to 1 than this it cannot be told from 1.
RATIOS = st.one_of(
    st.integers(0, 99).map(lambda percent: percent / 100),
    st.floats(0, 0.999, allow_nan=False),
)
BATCH_SIZES = st.integers(2, 16)


def test_the_first_counts_are_the_known_ones():
    assert [retained_count(t, batch_size=2, ratio=0.3) for t in range(10)] == [
        1, 1, 2, 1, 2, 1, 1, 2, 1, 2,
    ]  # fmt: skip
    assert [retained_count(t, batch_size=10, ratio=0.3) for t in range(3)] == [7, 7, 7]
    assert [retained_count(t, batch_size=4, ratio=0.0) for t in range(3)] == [4, 4, 4]


@EXAMPLES
@given(batch_size=BATCH_SIZES, ratio=RATIOS, iterations=st.integers(1, 200))
def test_the_ratio_is_exact_in_the_long_run(batch_size, ratio, iterations):
    counts = [retained_count(t, batch_size, ratio) for t in range(iterations)]
    due = (1 - Fraction(ratio)) * batch_size
    if due < 1:
        # Not even one image per batch is due, but one is always retained.
        assert counts == [1] * iterations
    else:
        assert abs(sum(counts) - due * iterations) < 1
    assert all(abs(count - due) < 1 or count == 1 for count in counts)


# Where less than one image per batch is due, one is retained all the same and no ratio is exact.
REACHABLE = [
    (batch_size, percent)
    for batch_size in range(2, 17)
    for percent in (10, 30, 33, 50, 70)
    if (100 - percent) * batch_size >= 100
]


@pytest.mark.parametrize(('batch_size', 'percent'), REACHABLE)
def test_the_ratio_is_exact_after_every_period_of_a_decimal_ratio(batch_size, percent):
    kept = sum(retained_count(t, batch_size, percent / 100) for t in range(100))
    assert kept == (100 - percent) * batch_size


@EXAMPLES
@given(
    batch_size=BATCH_SIZES,
    ratio=RATIOS,
    iterations=st.integers(1, 100),
    min_keep=st.integers(1, 4),
)
def test_closed_form_and_budget_agree(batch_size, ratio, iterations, min_keep):
    min_keep = min(min_keep, batch_size)
    budget = RetainedBudget()
    taken = [budget.take(batch_size, ratio, min_keep) for _ in range(iterations)]
    assert taken == [retained_count(t, batch_size, ratio, min_keep) for t in range(iterations)]


@EXAMPLES
@given(st.lists(st.tuples(BATCH_SIZES, RATIOS, st.integers(1, 20)), min_size=1, max_size=60))
def test_a_count_is_never_below_min_keep_nor_above_the_batch(batches):
    budget = RetainedBudget()
    for batch_size, ratio, min_keep in batches:
        count = budget.take(batch_size, ratio, min_keep)
        assert min(min_keep, batch_size) <= count <= batch_size


@EXAMPLES
@given(st.lists(st.tuples(BATCH_SIZES, st.integers(0, 50)), min_size=1, max_size=60))
def test_changing_batch_sizes_and_ratios_carry_one_remainder(batches):
    # At most half is pruned of at least two images, so that at least one image is due each time.
    budget = RetainedBudget()
    kept, due = 0, Fraction(0)
    for batch_size, percent in batches:
        kept += budget.take(batch_size, percent / 100)
        due += Fraction(100 - percent, 100) * batch_size
        assert 0 <= due - kept < 1


def test_the_last_small_batch_of_an_epoch_keeps_the_ratio():
    budget = RetainedBudget()
    epoch = [8] * 12 + [3]
    kept = sum(budget.take(size, ratio=0.3) for _ in range(100) for size in epoch)
    assert kept == round(0.7 * 100 * sum(epoch))


def test_a_ramp_prunes_its_mean_ratio():
    budget = RetainedBudget()
    ratios = [Fraction(step, 1000) for step in range(500)]
    kept = sum(budget.take(4, float(ratio)) for ratio in ratios)
    due = sum((1 - ratio) * 4 for ratio in ratios)
    assert 0 <= due - kept < 1


def test_min_keep_larger_than_the_batch_retains_the_small_batch_whole():
    assert RetainedBudget().take(batch_size=1, ratio=0.5, min_keep=2) == 1


def test_images_owed_to_min_keep_do_not_pile_up():
    budget = RetainedBudget()
    for _ in range(1000):
        assert budget.take(batch_size=2, ratio=0.9, min_keep=2) == 2
    # At most one image is owed, so the ratio holds again at once for large batches.
    assert budget.take(batch_size=10, ratio=0.5) == 4
    assert [budget.take(batch_size=10, ratio=0.5) for _ in range(3)] == [5, 5, 5]


@settings(EXAMPLES, max_examples=30)
@given(ratio=RATIOS, batch_size=BATCH_SIZES, cut=st.integers(0, 40))
def test_a_restored_budget_continues_identically(ratio, batch_size, cut):
    whole = RetainedBudget()
    first = RetainedBudget()
    expected = [whole.take(batch_size, ratio) for _ in range(60)]
    taken = [first.take(batch_size, ratio) for _ in range(cut)]
    second = RetainedBudget()
    second.take(7, 0.37)
    second.load_state_dict(first.state_dict())
    taken += [second.take(batch_size, ratio) for _ in range(60 - cut)]
    assert taken == expected


def test_the_state_is_plain_integers():
    budget = RetainedBudget()
    budget.take(2, 0.3)
    state = budget.state_dict()
    assert state == {'numerator': 2, 'denominator': 5}
    assert all(type(value) is int for value in state.values())


def test_a_decimal_ratio_is_read_as_written():
    assert exact_ratio(0.3) == Fraction(3, 10)
    assert exact_ratio(1 / 3) == Fraction(1, 3)
    assert exact_ratio(0) == 0


@pytest.mark.parametrize('ratio', [-0.1, 1, 1.5, float('nan'), float('inf'), True, None, '0.3'])
def test_a_ratio_out_of_range_is_refused(ratio):
    message = r'Expected argument `ratio` to be in \[0, 1\), but got '
    with pytest.raises(ValueError, match=message):
        retained_count(0, 4, ratio)
    with pytest.raises(ValueError, match=message):
        RetainedBudget().take(4, ratio)


def test_the_message_about_a_ratio_holds_the_value():
    with pytest.raises(ValueError, match=r'but got 1\.5\.$'):
        retained_count(0, 4, 1.5)


@pytest.mark.parametrize('size', [0, -1, 2.0, True, None])
def test_a_batch_size_that_is_no_positive_integer_is_refused(size):
    message = r'Expected argument `batch_size` to be an integer of at least 1, but got '
    with pytest.raises(ValueError, match=message):
        retained_count(0, size, 0.5)
    with pytest.raises(ValueError, match=message):
        RetainedBudget().take(size, 0.5)


@pytest.mark.parametrize('min_keep', [0, -2, 1.5, False])
def test_a_min_keep_that_is_no_positive_integer_is_refused(min_keep):
    message = r'Expected argument `min_keep` to be an integer of at least 1, but got '
    with pytest.raises(ValueError, match=message):
        retained_count(0, 4, 0.5, min_keep)
    with pytest.raises(ValueError, match=message):
        RetainedBudget().take(4, 0.5, min_keep)


def test_a_min_keep_above_the_batch_size_is_refused():
    message = r'Expected argument `min_keep` to be at most the batch size 4, but got 5\.'
    with pytest.raises(ValueError, match=message):
        retained_count(0, 4, 0.5, min_keep=5)


@pytest.mark.parametrize('iteration', [-1, 0.5])
def test_an_iteration_that_is_no_natural_number_is_refused(iteration):
    message = r'Expected argument `iteration` to be an integer of at least 0, but got '
    with pytest.raises(ValueError, match=message):
        retained_count(iteration, 4, 0.5)


def test_a_refused_batch_leaves_the_remainder_alone():
    budget = RetainedBudget()
    budget.take(2, 0.3)
    before = budget.state_dict()
    with pytest.raises(ValueError, match='ratio'):
        budget.take(2, 1.0)
    assert budget.state_dict() == before


@pytest.mark.parametrize('ratio', [1e-7, 0.9999999])
def test_extreme_ratios_are_not_rounded_away(ratio):
    assert float(exact_ratio(ratio)) == ratio
    assert 0 < exact_ratio(ratio) < 1
