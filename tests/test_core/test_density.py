import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde, multivariate_normal

from mmpfb.core.density import (
    assignment_sums,
    bandwidth_variance,
    euclidean_distance,
    log_density,
    moved_centroids,
    nearest_centroid,
)
from tests.oracles import density as oracle

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)

RULES = ['silverman', 'scott', 'identity']


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


SHAPES = st.fixed_dictionaries(
    {
        'batch_size': st.integers(1, 6),
        'num_centroids': st.integers(2, 8),
        'dim': st.integers(1, 6),
        'seed': st.integers(0, 10_000),
    }
)


@st.composite
def degenerate_features(draw):
    """Images and centroids full of ties, duplicates, dead channels and equal rows, in float64."""
    shape = draw(SHAPES)
    dim = shape['dim']
    # Few possible values, so that rows, distances and whole channels coincide.
    value = st.sampled_from([0.0, 0.5, 1.0, -3.0, 100.0])
    row = st.lists(value, min_size=dim, max_size=dim)
    rows = [draw(row) for _ in range(3)]
    x = [draw(st.sampled_from(rows)) for _ in range(shape['batch_size'])]
    centroids = [draw(st.sampled_from(rows)) for _ in range(shape['num_centroids'])]
    return torch.tensor(x, dtype=torch.float64), torch.tensor(centroids, dtype=torch.float64)


def expected_log_density(x, centroids, weight, variance):
    return torch.tensor(
        [
            oracle.log_density(row, centroids.tolist(), weight.tolist(), variance.tolist())
            for row in x.tolist()
        ],
        dtype=torch.float64,
    )


# Eq. 6 and Tab. 6: bandwidth


@pytest.mark.parametrize('rule', RULES)
@settings(EXAMPLES, max_examples=40)
@given(shape=SHAPES)
def test_bandwidth_equals_the_equation(rule, shape):
    centroids = randn(shape['num_centroids'], shape['dim'], seed=shape['seed'])
    expected = oracle.bandwidth_variance(centroids.tolist(), rule)
    torch.testing.assert_close(bandwidth_variance(centroids, rule), centroids.new_tensor(expected))


def test_bandwidth_of_known_numbers():
    centroids = torch.tensor([[0.0, 1.0], [2.0, 5.0]], dtype=torch.float64)
    # Sample variances 2 and 8; D = N_C = 2.
    expected = torch.tensor([2.0, 8.0], dtype=torch.float64)
    silverman = (4 / (4 * 2)) ** (2 / 6)
    torch.testing.assert_close(bandwidth_variance(centroids), silverman * expected)
    scott = 2 ** (-2 / 6)
    torch.testing.assert_close(bandwidth_variance(centroids, 'scott'), scott * expected)
    assert bandwidth_variance(centroids, 'identity').tolist() == [1.0, 1.0]


@pytest.mark.parametrize('rule', RULES)
@settings(EXAMPLES, max_examples=60)
@given(features=degenerate_features())
def test_bandwidth_is_positive_whatever_the_centroids(rule, features):
    _, centroids = features
    variance = bandwidth_variance(centroids, rule)
    assert (variance > 0).all() and torch.isfinite(variance).all()
    expected = oracle.bandwidth_variance(centroids.tolist(), rule)
    # Where all centroids are equal, the rounding of their mean is all the spread there is.
    rounding = 1e-31 * max(1.0, centroids.abs().max().item()) ** 2
    torch.testing.assert_close(variance, centroids.new_tensor(expected), rtol=1e-6, atol=rounding)


def test_a_dead_channel_gets_a_small_share_of_the_spread_of_the_others():
    centroids = randn(64, 8)
    centroids[:, 3] = 0
    variance = bandwidth_variance(centroids)
    others = variance[torch.arange(8) != 3]
    assert 0 < variance[3] < 1e-3 * others.min()
    torch.testing.assert_close(variance[3].sqrt(), 0.01 * (others.sum() / 8).sqrt())


def test_the_bandwidth_follows_the_scale_of_the_features():
    centroids = randn(16, 5)
    centroids[:, 2] = 1.0
    larger = bandwidth_variance(1000 * centroids)
    torch.testing.assert_close(larger, 1e6 * bandwidth_variance(centroids))


def test_an_unknown_rule_is_refused():
    message = r"`rule` to be one of 'silverman', 'scott', 'identity', but got 'botev'\."
    with pytest.raises(ValueError, match=message):
        bandwidth_variance(torch.ones(2, 2), 'botev')


# Eqs. 4 and 5: density


@settings(EXAMPLES, max_examples=40)
@given(shape=SHAPES)
def test_density_equals_a_mixture_of_scipy_normals(shape):
    x = randn(shape['batch_size'], shape['dim'], seed=shape['seed'])
    centroids = randn(shape['num_centroids'], shape['dim'], seed=shape['seed'] + 1)
    weight = rand(shape['num_centroids'], seed=shape['seed']) + 0.1
    variance = rand(shape['dim'], seed=shape['seed'] + 2) + 0.2
    expected = sum(
        weight[j].item()
        / len(centroids)
        * np.atleast_1d(
            multivariate_normal(centroids[j].numpy(), np.diag(variance.numpy())).pdf(x.numpy())
        )
        for j in range(len(centroids))
    )
    got = log_density(x, centroids, weight, variance)
    np.testing.assert_allclose(got.exp().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize('rule', ['silverman', 'scott'])
@pytest.mark.parametrize('num_centroids', [2, 7, 64])
def test_in_one_dimension_the_unweighted_density_is_that_of_scipy(rule, num_centroids):
    centroids, x = 5 + 3 * randn(num_centroids, 1), 5 + 6 * randn(20, 1, seed=1)
    kde = gaussian_kde(centroids[:, 0].numpy(), bw_method=rule)
    variance = bandwidth_variance(centroids, rule)
    got = log_density(x, centroids, torch.ones(num_centroids, dtype=torch.float64), variance)
    np.testing.assert_allclose(got.numpy(), kde.logpdf(x[:, 0].numpy()), rtol=1e-9)


@settings(EXAMPLES, max_examples=40)
@given(shape=SHAPES, rule=st.sampled_from(RULES))
def test_density_equals_the_equations(shape, rule):
    x = randn(shape['batch_size'], shape['dim'], seed=shape['seed'])
    centroids = randn(shape['num_centroids'], shape['dim'], seed=shape['seed'] + 1)
    weight = rand(shape['num_centroids'], seed=shape['seed'])
    variance = bandwidth_variance(centroids, rule)
    torch.testing.assert_close(
        log_density(x, centroids, weight, variance),
        expected_log_density(x, centroids, weight, variance),
        rtol=1e-9,
        atol=1e-9,
    )


@settings(EXAMPLES, max_examples=60)
@given(features=degenerate_features(), rule=st.sampled_from(RULES))
def test_density_of_degenerate_features_equals_the_equations(features, rule):
    x, centroids = features
    weight = torch.ones(len(centroids), dtype=torch.float64)
    variance = bandwidth_variance(centroids, rule)
    got = log_density(x, centroids, weight, variance)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(
        got, expected_log_density(x, centroids, weight, variance), rtol=1e-9, atol=1e-9
    )


def test_equal_images_have_equal_densities():
    x = randn(1, 16, dtype=torch.float32).expand(9, 16)
    centroids = randn(8, 16, seed=1, dtype=torch.float32)
    got = log_density(x, centroids, torch.ones(8), bandwidth_variance(centroids))
    assert (got == got[0]).all()


def test_a_weight_of_zero_switches_its_kernel_off():
    x, centroids = randn(5, 3), randn(4, 3, seed=1)
    weight = torch.tensor([2.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    variance = torch.ones(3, dtype=torch.float64)
    got = log_density(x, centroids, weight, variance)
    assert torch.isfinite(got).all()
    # Two kernels instead of four: the same sum divided by half the number.
    rest = log_density(x, centroids[[0, 2]], weight[[0, 2]] / 2, variance)
    torch.testing.assert_close(got, rest)


def test_no_kernel_at_all_is_no_density():
    got = log_density(randn(2, 3), randn(4, 3), torch.zeros(4).double(), torch.ones(3).double())
    assert torch.isneginf(got).all()


def test_the_order_survives_where_exp_underflows():
    dim = 128
    centroids = randn(64, dim, dtype=torch.float32)
    variance = bandwidth_variance(centroids)
    direction = randn(dim, seed=1, dtype=torch.float32)
    distances = torch.tensor([2.0, 9.0, 4.0, 30.0, 3.0, 14.0])
    x = distances[:, None] * direction
    got = log_density(x, centroids, torch.ones(64), variance)
    # Every kernel written as Eq. 5 is printed is zero in float32, for every image.
    squared = ((x[:, None, :] - centroids).square() / variance).sum(dim=2)
    assert (torch.exp(-0.5 * squared) == 0).all()
    assert (got.exp() == 0).all()
    assert got.argsort().tolist() == [3, 5, 1, 2, 4, 0]
    expected = expected_log_density(x, centroids, torch.ones(64), variance)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-3)


def test_an_offset_far_from_the_origin_does_not_cancel():
    x, centroids = randn(8, 128, dtype=torch.float32), randn(16, 128, seed=1, dtype=torch.float32)
    variance = bandwidth_variance(centroids)
    # An exact shift: the same numbers, but |x|^2 is 10^4 times the squared distances.
    x, centroids = (x * 2**10).round() / 2**10, (centroids * 2**10).round() / 2**10
    near = log_density(x, centroids, torch.ones(16), variance)
    far = log_density(x + 256, centroids + 256, torch.ones(16), variance)
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-2)


def test_an_image_too_far_for_float32_has_no_density_and_disturbs_no_other():
    x, centroids = randn(4, 8, dtype=torch.float32), randn(6, 8, seed=1, dtype=torch.float32)
    variance = bandwidth_variance(centroids)
    alone = log_density(x, centroids, torch.ones(6), variance)
    x[2] = 1e20
    got = log_density(x, centroids, torch.ones(6), variance)
    assert torch.isneginf(got[2])
    assert torch.equal(got[[0, 1, 3]], alone[[0, 1, 3]])


# Eq. 7: clusters


@settings(EXAMPLES, max_examples=60)
@given(features=degenerate_features())
def test_the_nearest_centroid_is_that_of_the_loop_and_the_first_among_ties(features):
    x, centroids = features
    got = nearest_centroid(x, centroids).tolist()
    expected = [oracle.nearest(row, centroids.tolist()) for row in x.tolist()]
    assert got == expected


def test_distances_are_euclidean():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert euclidean_distance(x, x).tolist() == [[0.0, 5.0], [5.0, 0.0]]


def test_an_image_that_is_not_finite_is_left_out_of_the_sums():
    x = torch.tensor([[1.0, 2.0], [torch.nan, 5.0], [3.0, 4.0], [torch.inf, 0.0]])
    included = torch.tensor([True, False, True, False])
    sums, added = assignment_sums(x, torch.tensor([2, 2, 2, 0]), included, num_centroids=3)
    assert sums.tolist() == [[0.0, 0.0], [0.0, 0.0], [4.0, 6.0]]
    assert added.tolist() == [0, 0, 2]
    assert added.dtype == torch.int64


def test_the_sums_of_two_ranks_add_up_to_the_sums_of_both():
    x, assigned = randn(9, 4), torch.tensor([0, 2, 2, 1, 0, 2, 1, 0, 2])
    included = torch.ones(9, dtype=torch.bool)
    whole = assignment_sums(x, assigned, included, 4)
    parts = [
        assignment_sums(x[rows], assigned[rows], included[rows], 4)
        for rows in (slice(0, 5), slice(5, 9))
    ]
    for total, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(first + second, total)


# Eq. 8: centroids


def update(x, centroids, counts, momentum):
    included = torch.ones(len(x), dtype=torch.bool)
    assigned = nearest_centroid(x, centroids)
    sums, added = assignment_sums(x, assigned, included, len(centroids))
    return moved_centroids(centroids, counts, sums, added, momentum)


@pytest.mark.parametrize('momentum', [0.0, 0.01, 0.3, 1.0])
@settings(EXAMPLES, max_examples=30)
@given(features=degenerate_features(), seed=st.integers(0, 1000))
def test_the_update_equals_the_loop(momentum, features, seed):
    x, centroids = features
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 50, (len(centroids),), generator=generator)
    got, got_counts = update(x, centroids, counts, momentum)
    expected, expected_counts = oracle.convex_update(
        centroids.tolist(), counts.tolist(), x.tolist(), momentum
    )
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    assert got_counts.tolist() == expected_counts


def test_a_centroid_without_images_does_not_move():
    centroids = torch.tensor([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]])
    counts = torch.tensor([3, 0, 7])
    got, got_counts = update(torch.tensor([[0.5, 0.0]]), centroids, counts, 0.01)
    assert torch.equal(got[1:], centroids[1:])
    assert got[0, 0] > 0
    assert got_counts.tolist() == [4, 0, 7]


def test_a_centroid_that_never_had_an_image_is_set_by_its_first_ones():
    got, counts = update(
        torch.tensor([[1.0], [3.0]]), torch.tensor([[2.5]]), torch.tensor([0]), 0.01
    )
    assert got.tolist() == [[2.0]]
    assert counts.tolist() == [2]


def test_a_constant_input_is_a_fixed_point():
    centroids, counts = torch.ones(1, 4), torch.tensor([1])
    for _ in range(500):
        centroids, counts = update(torch.ones(2, 4), centroids, counts, 0.01)
    assert torch.equal(centroids, torch.ones(1, 4))
    assert counts.tolist() == [1001]


def test_the_printed_equation_collapses_and_ours_does_not():
    printed, ours = [[1.0]], torch.ones(1, 1, dtype=torch.float64)
    counts, our_counts = [1], torch.tensor([1])
    for _ in range(1999):
        printed, counts = oracle.printed_update(printed, counts, [[1.0]], beta=0.01)
        ours, our_counts = update(torch.ones(1, 1, dtype=torch.float64), ours, our_counts, 0.01)
    assert counts == our_counts.tolist() == [2000]
    assert printed[0][0] == pytest.approx(0.0005, rel=0.01)
    assert ours.tolist() == [[1.0]]


def test_the_printed_equation_shrinks_a_centroid_without_images_and_ours_does_not():
    centroids, x = [[0.0], [50.0]], [[0.1]]
    printed, _ = oracle.printed_update(centroids, [4, 4], x, beta=0.01)
    assert printed[1][0] == pytest.approx(0.5)
    ours, _ = update(torch.tensor(x), torch.tensor(centroids), torch.tensor([4, 4]), 0.01)
    assert ours[1].tolist() == [50.0]


@settings(EXAMPLES, max_examples=60)
@given(
    count=st.integers(0, 10**9),
    batch_size=st.integers(1, 64),
    momentum=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_the_rate_stays_between_momentum_and_one(count, batch_size, momentum):
    # The distance moved from 0 towards 1 is the rate.
    sums = torch.full((1, 1), float(batch_size), dtype=torch.float64)
    moved, _ = moved_centroids(
        torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([count]),
        sums,
        torch.tensor([batch_size]),
        momentum,
    )
    rate = moved.item()
    assert momentum - 1e-12 <= rate <= 1 + 1e-12
    assert rate == pytest.approx(oracle.convex_rate(count, batch_size, momentum), rel=1e-9)
    assert rate >= batch_size / (count + batch_size) * (1 - 1e-9)


def test_a_centroid_keeps_following_after_a_long_training():
    centroids, counts = torch.zeros(1, 1), torch.tensor([10**7])
    for _ in range(1000):
        centroids, counts = update(torch.ones(1, 1), centroids, counts, 0.01)
    # Without a smallest rate it would have moved by 1e-4.
    assert centroids.item() == pytest.approx(1 - math.exp(-10), abs=1e-3)
