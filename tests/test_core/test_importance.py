import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmpfb.core.importance import (
    add_random_term,
    lowest,
    perturb_tempered,
    share_not_in,
    standardised,
)
from tests.oracles import density as oracle

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)

LOG_DENSITIES = st.lists(st.floats(-30, 5), min_size=1, max_size=8)


def uniforms(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


# Eqs. 2 and 3


@EXAMPLES
@given(
    log_densities=LOG_DENSITIES,
    seed=st.integers(0, 1000),
    bound=st.sampled_from([0.001, 0.01, 1.0, 10.0]),
)
def test_the_key_is_the_logarithm_of_inverse_importance(log_densities, seed, bound):
    values = torch.tensor(log_densities, dtype=torch.float64)
    uniform = uniforms(len(values), seed).double()
    key = add_random_term(values, uniform, bound)
    alphas = [bound * u for u in uniform.tolist()]
    importance = oracle.importance([math.exp(value) for value in log_densities], alphas)
    torch.testing.assert_close(key, -torch.tensor(importance, dtype=torch.float64).log())


def test_a_coefficient_per_image_can_change_the_order():
    values = torch.tensor([0.0, -8.0, -8.5, -9.0])
    orders = {
        tuple(add_random_term(values, uniforms(4, seed), 0.01).argsort().tolist())
        for seed in range(50)
    }
    assert len(orders) > 3
    # One coefficient for the whole batch, as the equation may be read, never does.
    for seed in range(50):
        one = uniforms(1, seed).expand(4)
        assert add_random_term(values, one, 0.01).argsort().tolist() == [3, 2, 1, 0]


def test_images_well_above_the_random_term_keep_their_order():
    values = torch.tensor([0.0, -0.5, -1.0, -20.0])
    for seed in range(50):
        order = add_random_term(values, uniforms(4, seed), 0.01).argsort().tolist()
        assert order == [3, 2, 1, 0]


def test_a_bound_of_zero_is_pure_density():
    values = torch.tensor([0.0, -8.0, -300.0, -torch.inf])
    assert torch.equal(add_random_term(values, uniforms(4, 0), 0.0), values)


def test_a_large_bound_is_pure_chance():
    values = torch.tensor([0.0, -1.0, -2.0, -3.0])
    orders = Counter(
        tuple(add_random_term(values, uniforms(4, seed), 1e6).argsort().tolist())
        for seed in range(1200)
    )
    observed = [orders[order] for order in itertools.permutations(range(4))]
    assert chisquare(observed).pvalue > 1e-3


def test_the_random_term_is_a_share_of_the_largest_density():
    # f = 0 for all but one image, so that f + r is r itself.
    values = torch.full((1000,), -1000.0, dtype=torch.float64)
    values[0] = math.log(3.0)
    key = add_random_term(values, uniforms(1000, 0).double(), 0.5).exp()[1:]
    assert 0 <= key.min() < 0.01 and 1.49 < key.max() <= 1.5
    assert key.mean().item() == pytest.approx(0.75, abs=0.03)


def test_densities_that_underflow_still_rank():
    values = torch.tensor([-900.0, -905.0, -890.0, -1000.0])
    key = add_random_term(values, torch.full((4,), 0.5), 1e-4)
    assert torch.isfinite(key).all()
    assert key.argsort().tolist() == [3, 1, 0, 2]


def test_the_smallest_random_numbers_do_no_harm():
    values = torch.tensor([0.0, -50.0, -torch.inf])
    for number in (0.0, 1.0):
        key = add_random_term(values, torch.full((3,), number), 0.01)
        assert torch.isfinite(key[:2]).all()
        key = perturb_tempered(values, torch.full((3,), number), 1.0)
        assert torch.isfinite(key[:2]).all()


@pytest.mark.parametrize(
    'perturb',
    [
        lambda values, uniform: add_random_term(values, uniform, 0.01),
        lambda values, uniform: add_random_term(values, uniform, 1e6),
        lambda values, uniform: perturb_tempered(values, uniform, 0.0),
        lambda values, uniform: perturb_tempered(values, uniform, 3.0),
    ],
)
def test_an_image_without_density_always_stays_the_most_important(perturb):
    values = torch.tensor([-3.0, -torch.inf, 2.0, -torch.inf, -40.0])
    for seed in range(100):
        key = perturb(values, uniforms(5, seed))
        assert not torch.isnan(key).any()
        assert set(lowest(key, 2).tolist()) == {1, 3}
    key = perturb(torch.full((4,), -torch.inf), uniforms(4, 0))
    assert torch.isneginf(key).all()


# Temperature


def sequential_probabilities(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Draw one image after the other, each with a chance in proportion to its weight."""
    probabilities: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), count):
        left, probability = sum(weights), 1.0
        for index in order:
            probability *= weights[index] / left
            left -= weights[index]
        subset = tuple(sorted(order))
        probabilities[subset] = probabilities.get(subset, 0.0) + probability
    return probabilities


def frequencies(values: torch.Tensor, temperature: float, count: int, draws: int) -> Counter:
    generator = torch.Generator().manual_seed(0)
    return Counter(
        tuple(
            lowest(
                perturb_tempered(
                    values, torch.rand(len(values), generator=generator), temperature
                ),
                count,
            ).tolist()
        )
        for _ in range(draws)
    )


@pytest.mark.parametrize('temperature', [0.0, 0.7, 2.0])
def test_tempered_keys_draw_one_after_the_other_without_replacement(temperature):
    values = torch.tensor([0.0, -1.0, -1.5, -4.0])
    z = [(value - values.mean().item()) / values.std(correction=0).item() for value in values]
    weights = [math.exp(-temperature * float(value)) for value in z]
    expected = sequential_probabilities(weights, 2)
    assert sum(expected.values()) == pytest.approx(1)
    draws = 2000
    observed = frequencies(values, temperature, 2, draws)
    assert set(observed) <= set(expected)
    result = chisquare(
        [observed[subset] for subset in expected],
        [draws * probability for probability in expected.values()],
    )
    assert result.pvalue > 1e-3


def test_the_two_ways_of_drawing_can_be_told_apart():
    # Meta-test: with the sign of the temperature swapped, the test above must fail.
    values = torch.tensor([0.0, -1.0, -1.5, -4.0])
    z = [(value - values.mean().item()) / values.std(correction=0).item() for value in values]
    expected = sequential_probabilities([math.exp(0.7 * float(value)) for value in z], 2)
    observed = frequencies(values, 0.7, 2, 1000)
    result = chisquare(
        [observed[subset] for subset in expected],
        [1000 * probability for probability in expected.values()],
    )
    assert result.pvalue < 1e-9


def test_a_high_temperature_is_pure_density():
    values = torch.tensor([0.0, -1.0, -1.5, -4.0, 2.0])
    for seed in range(100):
        key = perturb_tempered(values, uniforms(5, seed), 1e6)
        assert key.argsort().tolist() == values.argsort().tolist()


@EXAMPLES
@given(log_densities=LOG_DENSITIES)
def test_standardised_values_have_zero_mean_and_unit_deviation(log_densities):
    values = torch.tensor(log_densities, dtype=torch.float64)
    got = standardised(values)
    assert torch.isfinite(got).all()
    if values.std(correction=0) > 1e-6:
        assert got.mean().item() == pytest.approx(0, abs=1e-6)
        assert got.std(correction=0).item() == pytest.approx(1)


def test_standardising_looks_at_finite_values_only():
    values = torch.tensor([1.0, -torch.inf, 3.0])
    assert standardised(values).tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize('values', [[2.0], [5.0, 5.0, 5.0], [-math.inf, -math.inf]])
def test_equal_values_are_standardised_to_zero(values):
    assert standardised(torch.tensor(values)).tolist() == [0.0] * len(values)


# Choosing


@EXAMPLES
@given(values=st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 2.0]), min_size=1, max_size=12))
def test_the_count_is_exact_under_any_ties_and_ties_go_to_the_first(values):
    for count in range(1, len(values) + 1):
        got = lowest(torch.tensor(values), count).tolist()
        expected = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:count])
        assert got == expected


def test_share_not_in_counts_what_the_reference_lacks():
    chosen = torch.tensor([0, 3, 5, 7])
    assert share_not_in(chosen, torch.tensor([3, 7, 8, 9])).item() == 0.5
    assert share_not_in(chosen, chosen).item() == 0
    assert share_not_in(chosen, torch.tensor([1, 2, 4, 6])).item() == 1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('value', [-21.6627, 0.0, 1e20])
def test_rounding_of_equal_values_is_not_standardised(dtype, value):
    assert not standardised(torch.full((3,), value, dtype=dtype)).any()


def test_a_far_outlier_does_not_overflow():
    values = standardised(torch.tensor([0.0, 1.0, -1e30]))
    assert torch.isfinite(values).all()
    assert values[2] < -1
