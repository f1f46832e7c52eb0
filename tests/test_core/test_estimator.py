import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from mmpfb.core.estimator import DensityEstimator, usable_rows
from mmpfb.errors import EstimatorStateError
from tests.oracles import density as oracle

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(num_centroids: int = 8, dim: int = 4, batches: int = 5, **kwargs) -> DensityEstimator:
    estimator = DensityEstimator(num_centroids, dim, **kwargs)
    for seed in range(batches):
        estimator.update(randn(num_centroids, dim, seed=seed))
    return estimator


class Oracle:
    """The estimator as loops in float64, from the first image on."""

    def __init__(self, num_centroids: int, momentum: float) -> None:
        self.num_centroids, self.momentum = num_centroids, momentum
        self.centroids: list[list[float]] = []
        self.counts: list[int] = []

    def update(self, batch: list[list[float]]) -> None:
        batch = [x for x in batch if all(math.isfinite(value) for value in x)]
        missing = self.num_centroids - len(self.centroids)
        self.centroids += batch[:missing]
        self.counts += [1] * len(batch[:missing])
        if len(self.centroids) == self.num_centroids and batch[missing:]:
            self.centroids, self.counts = oracle.convex_update(
                self.centroids, self.counts, batch[missing:], self.momentum
            )

    def log_density(self, x: list[float], rule: str) -> float:
        variance = oracle.bandwidth_variance(self.centroids, rule)
        return oracle.log_density(x, self.centroids, oracle.weights(self.counts), variance)


@settings(EXAMPLES, max_examples=40)
@given(
    num_centroids=st.integers(2, 8),
    dim=st.integers(1, 5),
    momentum=st.sampled_from([0.01, 0.2]),
    rule=st.sampled_from(['silverman', 'scott', 'identity']),
    batch_sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    broken=st.sets(st.integers(0, 55)),
    seed=st.integers(0, 10_000),
)
def test_a_stream_of_batches_equals_the_loop(
    num_centroids, dim, momentum, rule, batch_sizes, broken, seed
):
    estimator = DensityEstimator(num_centroids, dim, momentum, rule)
    loop = Oracle(num_centroids, momentum)
    images = randn(sum(batch_sizes), dim, seed=seed, dtype=torch.float64)
    for index in broken:
        if index < len(images):
            images[index, index % dim] = (torch.nan, torch.inf, -torch.inf)[index % 3]
    for batch in images.split(batch_sizes):
        estimator.update(batch)
        loop.update(batch.tolist())
        assert estimator.ready == (len(loop.centroids) == num_centroids)
    if not estimator.ready:
        return
    expected = torch.tensor(loop.centroids, dtype=torch.float64)
    torch.testing.assert_close(estimator.centroids, expected)
    assert estimator.counts.tolist() == loop.counts
    assert estimator.weight.tolist() == pytest.approx(oracle.weights(loop.counts))
    queries = randn(3, dim, seed=seed + 1, dtype=torch.float64)
    expected = torch.tensor([loop.log_density(x, rule) for x in queries.tolist()]).double()
    torch.testing.assert_close(estimator.log_density(queries), expected, rtol=1e-6, atol=1e-5)


def test_float32_follows_the_float64_loop_at_full_size():
    estimator, loop = DensityEstimator(16, 32), Oracle(16, 0.01)
    for seed in range(8):
        batch = 3 + randn(10, 32, seed=seed)
        estimator.update(batch)
        loop.update(batch.tolist())
    queries = 3 + randn(4, 32, seed=99)
    expected = torch.tensor([loop.log_density(x, 'silverman') for x in queries.tolist()])
    torch.testing.assert_close(estimator.log_density(queries), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('rule', ['silverman', 'scott'])
def test_unbalanced_in_one_dimension_is_scipys_kernel_density(rule):
    estimator = DensityEstimator(20, dim=1, bandwidth=rule, balanced=False)
    for seed in range(4):
        estimator.update(randn(10, 1, seed=seed, dtype=torch.float64))
    queries = 3 * randn(15, 1, seed=9, dtype=torch.float64)
    kde = gaussian_kde(estimator.centroids[:, 0].numpy(), bw_method=rule)
    np.testing.assert_allclose(
        estimator.log_density(queries).numpy(), kde.logpdf(queries[:, 0].numpy()), rtol=1e-9
    )


def test_balanced_in_one_dimension_is_scipys_weighted_kernel_sum():
    estimator = DensityEstimator(6, dim=1, bandwidth='identity')
    estimator.update(torch.arange(6.0).double()[:, None] * 5)
    estimator.update(torch.tensor([[0.1], [0.2], [5.1]]).double())
    weight = np.array([3, 2, 1, 1, 1, 1]) / 9
    np.testing.assert_allclose(estimator.weight.numpy(), weight, rtol=1e-12)
    centroids = estimator.centroids[:, 0].numpy()
    expected = [
        (weight / 6 * np.exp(-0.5 * (q - centroids) ** 2) / np.sqrt(2 * np.pi)).sum()
        for q in (0.0, 7.0)
    ]
    got = estimator.log_density(torch.tensor([[0.0], [7.0]]).double()).exp()
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_weights_are_one_if_not_balanced():
    estimator = trained(balanced=False)
    assert estimator.counts.sum() > 8
    assert estimator.weight.tolist() == [1.0] * 8


# Collecting


def test_the_first_finite_images_become_the_centroids():
    estimator = DensityEstimator(num_centroids=4, dim=2)
    first, second = randn(3, 2), randn(3, 2, seed=1)
    first[1, 0] = torch.nan
    estimator.update(first)
    assert not estimator.ready
    estimator.update(second[:2])
    assert estimator.ready
    assert torch.equal(estimator.centroids, torch.cat([first[[0, 2]], second[:2]]))
    assert estimator.counts.tolist() == [1, 1, 1, 1]


def test_images_left_over_from_collecting_are_learned_from():
    estimator = DensityEstimator(num_centroids=2, dim=1)
    estimator.update(torch.tensor([[0.0], [10.0], [12.0]]))
    assert estimator.counts.tolist() == [1, 2]
    # eta = (1 + 0.01) / 2 of the way from 10 to 12.
    assert estimator.centroids.flatten().tolist() == pytest.approx([0.0, 11.01])


@pytest.mark.parametrize('name', ['centroids', 'counts', 'weight', 'share_in_use'])
def test_what_needs_centroids_is_refused_before_there_are(name):
    estimator = DensityEstimator(num_centroids=4, dim=2)
    estimator.update(randn(3, 2))
    with pytest.raises(RuntimeError, match=r'holds 3 of 4 centroids: call `update` with more'):
        getattr(estimator, name)


def test_densities_are_refused_before_there_are_centroids():
    with pytest.raises(RuntimeError, match='holds 0 of 4 centroids'):
        DensityEstimator(num_centroids=4, dim=2).log_density(randn(1, 2))


def test_share_in_use_counts_centroids_with_a_second_image():
    estimator = DensityEstimator(num_centroids=4, dim=1)
    estimator.update(torch.tensor([[0.0], [10.0], [20.0], [30.0]]))
    assert estimator.share_in_use.item() == 0
    estimator.update(torch.tensor([[0.1], [0.2], [29.0]]))
    assert estimator.share_in_use.item() == 0.5


# Images that are not finite


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_has_no_density_and_leaves_no_trace(value):
    estimator, twin = trained(), trained()
    x = randn(6, 4, seed=7)
    finite = x[[0, 1, 3, 5]]
    x[2, 1] = x[4, 3] = value
    assert torch.isneginf(estimator.log_density(x)[[2, 4]]).all()
    assert torch.equal(estimator.log_density(x)[[0, 1, 3, 5]], twin.log_density(finite))
    estimator.update(x)
    twin.update(finite)
    assert torch.equal(estimator.centroids, twin.centroids)
    assert torch.equal(estimator.counts, twin.counts)


def test_a_batch_without_a_finite_image_changes_nothing():
    estimator = trained()
    before = copy.deepcopy(estimator.state_dict())
    estimator.update(torch.full((5, 4), torch.nan))
    assert torch.equal(estimator.centroids, before['centroids'])
    assert torch.equal(estimator.counts, before['counts'])
    assert torch.isneginf(estimator.log_density(torch.full((5, 4), torch.nan))).all()


def test_usable_rows_are_those_without_nan_infinity_and_absurd_values():
    x = torch.tensor(
        [[0.0, 1.0], [torch.nan, 1.0], [1.0, torch.inf], [-torch.inf, 0.0], [1e20, 0.0], [1e9, 0.0]]
    )
    assert usable_rows(x).tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize('moment', ['collecting', 'ready'])
def test_one_absurd_image_does_not_flatten_all_densities(moment):
    generator = torch.Generator().manual_seed(0)
    estimator = DensityEstimator(num_centroids=8, dim=4)
    batches = torch.randn(3, 8, 4, generator=generator)
    batches[0 if moment == 'collecting' else 1][3] = 1e20
    for features in batches:
        estimator.update(features)
    values = estimator.log_density(torch.randn(6, 4, generator=generator))
    assert torch.isfinite(values).all()
    assert values.unique().numel() == 6
    assert estimator.centroids.abs().max() < 10


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(centroids=torch.zeros(3, 5)), r'centroids of shape \(8, 4\) .* but got \(3, 5\)'),
        (dict(counts=torch.zeros(3)), r'counts of shape \(8,\) .* but got \(3,\)'),
        (dict(num_collected=9), r'num_collected .* in \[0, 8\], but got 9'),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(change, message):
    estimator = DensityEstimator(num_centroids=8, dim=4)
    estimator.update(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    state = {**estimator.state_dict(), **change}
    with pytest.raises(EstimatorStateError, match=message):
        DensityEstimator(num_centroids=8, dim=4).load_state_dict(state)


def test_balanced_that_is_no_truth_value_is_refused():
    with pytest.raises(ValueError, match="`balanced` to be True or False, but got 'no'"):
        DensityEstimator(balanced='no')


# Degenerate but finite features


@settings(EXAMPLES, max_examples=50)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6, 1e8]),
    dead=st.sets(st.integers(0, 3)),
    batch_size=st.integers(1, 6),
    distinct=st.integers(1, 6),
)
def test_finite_features_have_finite_densities(seed, scale, dead, batch_size, distinct):
    estimator = DensityEstimator(num_centroids=6, dim=4)
    images = scale * randn(6, 4, seed=seed)[:distinct].repeat(6, 1)
    images[:, list(dead)] = 0
    estimator.update(images[:6])
    for begin in range(0, 12, batch_size):
        batch = images[begin : begin + batch_size]
        assert torch.isfinite(estimator.log_density(batch)).all()
        estimator.update(batch)
    assert torch.isfinite(estimator.centroids).all()


def test_all_equal_features_stay_where_they_are():
    estimator = DensityEstimator(num_centroids=4, dim=3)
    image = torch.tensor([[0.1, 0.0, 7.3]])
    for _ in range(100):
        estimator.update(image.expand(5, 3))
    assert torch.equal(estimator.centroids, image.expand(4, 3))
    densities = estimator.log_density(image.expand(5, 3))
    assert torch.isfinite(densities).all() and (densities == densities[0]).all()


def test_an_image_that_wakes_a_dead_channel_is_rare():
    estimator = DensityEstimator(num_centroids=16, dim=4)
    x = randn(16, 4)
    x[:, 2] = 0
    estimator.update(x)
    query = torch.zeros(2, 4)
    query[1, 2] = 1.0
    common, rare = estimator.log_density(query)
    assert rare < common - 100


@pytest.mark.parametrize('value', [1e20, -3e38])
def test_a_huge_image_is_rare_and_does_not_disturb_the_densities_of_others(value):
    estimator = trained()
    x = randn(5, 4, seed=7)
    alone = estimator.log_density(x)
    x[1] = value
    got = estimator.log_density(x)
    assert got.argmin() == 1 and not torch.isnan(got).any()
    assert torch.equal(got[[0, 2, 3, 4]], alone[[0, 2, 3, 4]])


# Precision


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_not_computed_in(dtype):
    estimator, x = trained(dim=32), randn(6, 32, seed=3)
    rounded = x.to(dtype)
    assert torch.equal(estimator.log_density(rounded), estimator.log_density(rounded.float()))
    estimator.update(rounded)
    assert estimator.centroids.dtype == torch.float32


def test_an_estimator_fed_with_half_precision_from_the_start_holds_float32():
    estimator = DensityEstimator(num_centroids=4, dim=2)
    estimator.update(randn(6, 2).half())
    assert estimator.centroids.dtype == torch.float32
    assert estimator.log_density(randn(2, 2).bfloat16()).dtype == torch.float32


def test_float64_features_widen_the_state():
    estimator = trained()
    estimator.update(randn(6, 4, dtype=torch.float64))
    assert estimator.centroids.dtype == torch.float64
    assert estimator.log_density(randn(2, 4)).dtype == torch.float64


def test_autocast_changes_nothing():
    inside, outside = trained(dim=32), trained(dim=32)
    x = randn(6, 32, seed=3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        densities = inside.log_density(x)
        inside.update(x)
    assert torch.equal(densities, outside.log_density(x))
    outside.update(x)
    assert torch.equal(inside.centroids, outside.centroids)


def test_no_gradient_passes_the_estimator():
    estimator = DensityEstimator(num_centroids=4, dim=2)
    x = randn(6, 2).requires_grad_()
    estimator.update(x)
    assert not estimator.log_density(x).requires_grad
    estimator.update(x)
    assert not estimator.centroids.requires_grad


def test_the_state_does_not_share_memory_with_the_features():
    estimator = DensityEstimator(num_centroids=4, dim=2)
    x = randn(4, 2)
    estimator.update(x)
    before = estimator.centroids.clone()
    x.zero_()
    assert torch.equal(estimator.centroids, before)


# State


@pytest.mark.parametrize('batches', [0, 1, 2, 5])
def test_a_restored_estimator_continues_identically(tmp_path, batches):
    images = [randn(5, 4, seed=seed) for seed in range(12)]
    whole = DensityEstimator(num_centroids=8, dim=4)
    first = DensityEstimator(num_centroids=8, dim=4)
    for batch in images:
        whole.update(batch)
    for batch in images[:batches]:
        first.update(batch)
    torch.save(first.state_dict(), tmp_path / 'state.pth')
    second = DensityEstimator(num_centroids=8, dim=4)
    second.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert second.ready == first.ready
    for batch in images[batches:]:
        second.update(batch)
    assert torch.equal(second.centroids, whole.centroids)
    assert torch.equal(second.counts, whole.counts)
    query = randn(6, 4, seed=50)
    assert torch.equal(second.log_density(query), whole.log_density(query))


def test_a_loaded_state_is_a_copy():
    source, target = DensityEstimator(8, 4), DensityEstimator(8, 4)
    source.update(randn(3, 4))
    state = source.state_dict()
    target.load_state_dict(state)
    target.update(randn(5, 4, seed=1))
    before = target.centroids.clone()
    source.update(randn(5, 4, seed=2))
    assert torch.equal(target.centroids, before)


def test_loading_replaces_what_was_learned():
    estimator = trained()
    estimator.load_state_dict(DensityEstimator(8, 4).state_dict())
    assert not estimator.ready


@pytest.mark.parametrize(('name', 'sizes'), [('num_centroids', (9, 4)), ('dim', (8, 5))])
def test_a_state_of_other_sizes_is_refused(name, sizes):
    estimator = trained()
    before = estimator.centroids.clone()
    own, other = {'num_centroids': (8, 9), 'dim': (4, 5)}[name]
    message = f'Expected an estimator state with {name}={own}, but got {name}={other}. Resume with'
    with pytest.raises(EstimatorStateError, match=message):
        estimator.load_state_dict(DensityEstimator(*sizes).state_dict())
    assert torch.equal(estimator.centroids, before)


def test_a_state_that_lacks_a_key_is_refused():
    state = trained().state_dict()
    del state['counts'], state['dim']
    with pytest.raises(EstimatorStateError, match=r"but \['counts', 'dim'\] are missing\."):
        trained().load_state_dict(state)


def test_a_deep_copy_is_independent():
    estimator = trained()
    twin = copy.deepcopy(estimator)
    before = estimator.centroids.clone()
    twin.update(10 + randn(8, 4))
    assert torch.equal(estimator.centroids, before)
    assert not torch.equal(twin.centroids, before)


# Bad input


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_centroids': 1}, '`num_centroids` to be an integer of at least 2, but got 1'),
        ({'num_centroids': 8.0}, '`num_centroids` to be an integer of at least 2, but got 8.0'),
        ({'dim': 0}, '`dim` to be an integer of at least 1, but got 0'),
        ({'momentum': -0.1}, r'`momentum` to be in \[0, 1\], but got -0.1'),
        ({'momentum': 1.1}, r'`momentum` to be in \[0, 1\], but got 1.1'),
        ({'momentum': math.nan}, r'`momentum` to be in \[0, 1\], but got nan'),
        ({'bandwidth': 'botev'}, "`bandwidth` to be one of 'silverman', 'scott', 'identity', but"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f'Expected argument {message}'):
        DensityEstimator(**arguments)


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64])
def test_features_that_are_not_floating_point_are_refused(dtype):
    x = torch.zeros(3, 4, dtype=dtype)
    for method in (trained().log_density, trained().update, DensityEstimator(8, 4).update):
        with pytest.raises(TypeError, match=f'features to be floating point, but got {dtype}'):
            method(x)


@pytest.mark.parametrize('shape', [(4,), (3, 5), (3, 4, 1)])
def test_features_of_another_shape_are_refused(shape):
    for method in (trained().log_density, trained().update, DensityEstimator(8, 4).update):
        with pytest.raises(ValueError, match=r'pooled features of shape \(B, 4\), but got \('):
            method(torch.zeros(shape))
