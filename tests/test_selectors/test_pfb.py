import copy
import itertools
import random
import statistics
import time
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode

from mmpfb.core.pooling import pool_features
from mmpfb.core.randomness import generator_for
from mmpfb.errors import EstimatorStateError
from mmpfb.selectors import PFB, Uniform

DIM = 16


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(num_centroids: int = 8, dim: int = DIM, batches: int = 4, **kwargs) -> PFB:
    selector = PFB(num_centroids, dim, **kwargs)
    selector.prepare(dim)
    for seed in range(batches):
        selector.observe(randn(num_centroids, dim, seed=seed))
    return selector


def keep(selector: PFB, features: torch.Tensor, count: int, *coordinates: int) -> list[int]:
    return selector.select(features, count, generator_for(*coordinates)).keep.tolist()


def rarest_first(selector: PFB, features: torch.Tensor) -> list[int]:
    return selector.estimator.log_density(features).argsort().tolist()


# The choice


@pytest.mark.parametrize('temperature', [None, 0.0, 1.0])
def test_the_count_is_exact_and_the_indices_are_ascending_and_distinct(temperature):
    selector = trained(temperature=temperature)
    for batch_size in (1, 2, 9):
        for count in range(1, batch_size + 1):
            selection = selector.select(randn(batch_size, DIM), count, generator_for(count))
            chosen = selection.keep.tolist()
            assert len(chosen) == count and chosen == sorted(set(chosen))
            assert selection.keep.dtype == torch.int64
            assert selection.weight is None and selection.score.shape == (batch_size,)


@pytest.mark.parametrize('temperature', [None, 0.0, 1.0])
def test_the_count_is_exact_if_all_images_are_the_same(temperature):
    selector = trained(temperature=temperature)
    for count in (1, 5, 8):
        assert len(keep(selector, torch.ones(8, DIM), count, 0)) == count


def test_without_a_random_term_the_rarest_images_are_kept():
    selector, features = trained(random_bound=0), randn(12, DIM, seed=9)
    order = rarest_first(selector, features)
    for count in (1, 4, 11):
        selection = selector.select(features, count, generator_for(0))
        assert selection.keep.tolist() == sorted(order[:count])
        assert selection.stats['random_share'].item() == 0


def test_the_score_is_highest_for_the_images_that_are_kept():
    selector, features = trained(), randn(12, DIM, seed=9)
    selection = selector.select(features, 5, generator_for(0))
    assert set(selection.score.topk(5).indices.tolist()) == set(selection.keep.tolist())


def test_an_outlier_is_kept_and_typical_images_are_pruned():
    selector = trained(num_centroids=16, batches=6)
    features = 0.1 * randn(8, DIM, seed=9)
    features[5] += 4
    for iteration in range(50):
        assert 5 in keep(selector, features, 1, iteration)


def test_the_random_term_differs_between_images():
    selector, features = trained(random_bound=1e6), randn(6, DIM, seed=9)
    assert len({tuple(keep(selector, features, 3, i)) for i in range(100)}) > 10


def test_random_share_is_the_part_that_density_would_not_have_kept():
    selector, features = trained(random_bound=1e6), randn(10, DIM, seed=9)
    rarest = set(rarest_first(selector, features)[:4])
    for iteration in range(20):
        selection = selector.select(features, 4, generator_for(iteration))
        expected = len(set(selection.keep.tolist()) - rarest) / 4
        assert selection.stats['random_share'].item() == pytest.approx(expected)


def test_temperature_zero_is_a_uniform_choice():
    selector, features = trained(temperature=0), 5 * randn(5, DIM, seed=9)
    observed = Counter(tuple(keep(selector, features, 2, i)) for i in range(1000))
    subsets = list(itertools.combinations(range(5), 2))
    assert set(observed) == set(subsets)
    assert chisquare([observed[subset] for subset in subsets]).pvalue > 1e-3


def test_temperature_zero_makes_the_choices_of_uniform():
    selector, features = trained(temperature=0), randn(9, DIM, seed=9)
    for iteration in range(20):
        expected = Uniform().select(features, 4, generator_for(iteration)).keep.tolist()
        assert keep(selector, features, 4, iteration) == expected


def test_a_high_temperature_is_pure_density():
    selector, features = trained(temperature=1e6), randn(10, DIM, seed=9)
    expected = sorted(rarest_first(selector, features)[:4])
    for iteration in range(30):
        assert keep(selector, features, 4, iteration) == expected


def test_a_temperature_replaces_the_random_term():
    features = randn(10, DIM, seed=9)
    without, with_bound = trained(temperature=1.0), trained(temperature=1.0, random_bound=1e6)
    for iteration in range(20):
        assert keep(without, features, 4, iteration) == keep(with_bound, features, 4, iteration)


# Precision


def ladder(dim: int = DIM) -> tuple[PFB, torch.Tensor]:
    """A selector and a batch whose densities are far apart, in no particular order."""
    selector = trained(num_centroids=16, dim=dim, batches=6)
    steps = torch.tensor([4.0, 1.0, 7.0, 2.5, 6.0, 3.0, 8.0, 0.0, 5.0])
    return selector, steps[:, None] * torch.ones(dim)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('temperature', [None, 1.0])
def test_half_precision_gives_the_same_choice(dtype, temperature):
    selector, vectors = ladder()
    selector.temperature = temperature
    noise = 0.1 * randn(len(vectors), DIM, 6, 6, seed=3)
    maps = vectors[:, :, None, None] + noise
    for iteration in range(20):
        expected = keep(selector, pool_features(maps, DIM), 4, iteration)
        assert keep(selector, pool_features(maps.to(dtype), DIM), 4, iteration) == expected


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_trains_the_same_estimator_within_rounding(dtype):
    narrow, wide = trained(batches=0), trained(batches=0)
    for seed in range(10):
        maps = randn(8, DIM, 4, 4, seed=seed)
        wide.observe(pool_features(maps, DIM))
        narrow.observe(pool_features(maps.to(dtype), DIM))
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        narrow.estimator.centroids, wide.estimator.centroids, rtol=0, atol=2 * rounding
    )


# Images that are not finite


@pytest.mark.parametrize('temperature', [None, 0.0, 2.0])
@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_kept_first(temperature, value):
    selector = trained(temperature=temperature)
    features = randn(8, DIM, seed=9)
    features[[2, 6], 3] = value
    for iteration in range(50):
        assert keep(selector, features, 2, iteration) == [2, 6]
        assert {2, 6} < set(keep(selector, features, 4, iteration))


def test_images_that_are_not_finite_never_enter_the_state():
    selector = trained(batches=0)
    for seed in range(6):
        features = randn(8, DIM, seed=seed)
        features[seed] = torch.nan
        features[seed + 1, 0] = torch.inf
        selector.observe(features)
    assert selector.ready
    assert torch.isfinite(selector.estimator.centroids).all()
    # The first batch sets six of the eight centroids.
    assert selector.estimator.counts.sum() == 6 * 6
    selection = selector.select(randn(6, DIM, seed=9), 3, generator_for(0))
    assert torch.isfinite(selection.score).all()
    assert torch.isfinite(selection.stats['random_share'])


def test_a_batch_without_a_finite_image_still_gives_a_choice():
    selection = trained().select(torch.full((6, DIM), torch.nan), 3, generator_for(0))
    assert selection.keep.tolist() == [0, 1, 2]


# Randomness


def test_the_same_seed_rank_and_iteration_give_the_same_choice_and_others_do_not():
    selector, features = trained(temperature=0.0), randn(32, DIM, seed=9)
    coordinates = list(itertools.product(range(3), repeat=3))
    choices = {tuple(keep(selector, features, 16, *item)) for item in coordinates}
    assert len(choices) == len(coordinates)
    for item in coordinates:
        assert keep(selector, features, 16, *item) == keep(selector, features, 16, *item)


@pytest.mark.parametrize('temperature', [None, 1.0])
def test_global_generators_are_left_alone(temperature):
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    selector = trained(temperature=temperature)
    keep(selector, randn(8, DIM), 4, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# Preparing and learning


def test_a_narrow_stage_is_estimated_in_its_own_dimensions():
    selector = PFB(num_centroids=4, dim=128)
    assert 'has 64 channels, fewer than dim=128' in selector.prepare(64)
    assert selector.estimator.dim == 64


@pytest.mark.parametrize('num_channels', [128, 256])
def test_a_wide_stage_is_estimated_in_dim_dimensions(num_channels):
    selector = PFB(num_centroids=4, dim=128)
    assert selector.prepare(num_channels) is None
    assert selector.estimator.dim == 128


def test_the_settings_reach_the_estimator():
    selector = PFB(5, 6, momentum=0.2, bandwidth='scott', balanced=False)
    for _ in range(2):
        estimator = selector.estimator
        assert (estimator.num_centroids, estimator.dim, estimator.momentum) == (5, 6, 0.2)
        assert (estimator.bandwidth, estimator.balanced) == ('scott', False)
        selector.prepare(6)


def test_without_prepare_the_first_features_give_the_width():
    selector = PFB(num_centroids=4, dim=128)
    selector.observe(randn(6, 10))
    assert selector.ready and selector.estimator.dim == 10


def test_it_is_ready_when_all_centroids_are_set():
    selector = trained(num_centroids=8, batches=0)
    selector.observe(randn(5, DIM))
    assert not selector.ready and selector.metrics() == {}
    with pytest.raises(RuntimeError, match='holds 5 of 8 centroids'):
        selector.select(randn(4, DIM), 2, generator_for(0))
    selector.observe(randn(5, DIM, seed=1))
    assert selector.ready
    assert selector.metrics()['centroids_in_use'].item() == 0.25


# State


@pytest.mark.parametrize('temperature', [None, 1.0])
@pytest.mark.parametrize('cut', [0, 1, 9])
def test_a_restored_selector_continues_identically(tmp_path, temperature, cut):
    def run(selector, iterations):
        choices = []
        for iteration in iterations:
            features = randn(6, DIM, seed=100 + iteration)
            if selector.ready:
                chosen = selector.select(features, 3, generator_for(0, 0, iteration)).keep
                choices.append(chosen.tolist())
                features = features[chosen]
            selector.observe(features)
        return choices

    def new():
        selector = PFB(8, DIM, temperature=temperature)
        selector.prepare(DIM)
        return selector

    whole, first, second = new(), new(), new()
    expected = run(whole, range(20))
    choices = run(first, range(cut))
    torch.save(first.state_dict(), tmp_path / 'state.pth')
    second.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True))
    choices += run(second, range(cut, 20))
    assert choices == expected and len(choices) == 18
    for name in ('centroids', 'counts'):
        assert torch.equal(getattr(second.estimator, name), getattr(whole.estimator, name))


@pytest.mark.parametrize(('name', 'sizes'), [('num_centroids', (9, DIM)), ('dim', (8, DIM + 1))])
def test_a_state_of_other_sizes_is_refused(name, sizes):
    with pytest.raises(EstimatorStateError, match=f'estimator state with {name}='):
        trained().load_state_dict(trained(*sizes).state_dict())


def test_a_deep_copy_is_independent():
    selector = trained()
    twin = copy.deepcopy(selector)
    before = selector.estimator.centroids.clone()
    twin.observe(5 + randn(8, DIM))
    assert torch.equal(selector.estimator.centroids, before)


# Bad input


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_centroids': 1}, '`num_centroids` to be an integer of at least 2, but got 1'),
        ({'dim': 0}, '`dim` to be an integer of at least 1, but got 0'),
        ({'dim': None}, '`dim` to be an integer of at least 1, but got None'),
        ({'momentum': 2}, r'`momentum` to be in \[0, 1\], but got 2'),
        ({'bandwidth': 'botev'}, "`bandwidth` to be one of .* but got 'botev'"),
        ({'random_bound': -1}, '`random_bound` to be a finite number of at least 0, but got -1'),
        ({'random_bound': None}, '`random_bound` to be a finite number of at least 0, but got N'),
        ({'temperature': -1}, '`temperature` to be a finite number of at least 0, but got -1'),
        ({'temperature': 'hot'}, "`temperature` to be a finite number of at least 0, but got 'h"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f'Expected argument {message}'):
        PFB(**arguments)


def test_features_that_are_not_floating_point_are_refused():
    selector, features = trained(), torch.ones(8, DIM, dtype=torch.int64)
    with pytest.raises(TypeError, match='floating point, but got torch.int64'):
        selector.select(features, 4, generator_for(0))
    with pytest.raises(TypeError, match='floating point, but got torch.int64'):
        selector.observe(features)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=rf'shape \(B, {DIM}\), but got \(4, 3\)'):
        trained().select(torch.ones(4, 3), 2, generator_for(0))


# Cost of one scoring step


def scoring_step(selector: PFB, features: torch.Tensor, iteration: int) -> None:
    pooled = pool_features(features, selector.dim)
    chosen = selector.select(pooled, 11, generator_for(0, 0, iteration)).keep
    selector.observe(pooled.index_select(0, chosen))


class HostWait(AssertionError):
    pass


class NoHostWait(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: reading a value, or a shape that needs one."""

    FORBIDDEN = (
        '_local_scalar_dense',
        'item',
        'equal',
        'is_nonzero',
        'nonzero',
        'nonzero_numpy',
        'argwhere',
        'masked_select',
        'unique',
        '_unique',
        '_unique2',
        'unique_dim',
        'unique_consecutive',
        'bincount',
        'histc',
    )

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.num_calls += 1
        name = function.overloadpacket.__name__
        if name in self.FORBIDDEN:
            raise HostWait(name)
        if name in ('index', 'index_put', 'index_put_', '_index_put_impl_'):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                raise HostWait(f'{name} with a mask')
        if name == 'repeat_interleave' and kwargs.get('output_size') is None:
            raise HostWait(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('options', [{}, {'temperature': 1.0}, {'balanced': False}])
def test_a_scoring_step_makes_no_host_wait(options, dtype):
    selector = trained(dim=DIM, **options)
    features = randn(16, 2 * DIM, 5, 5).to(dtype)
    features[3, 0] = torch.nan
    with NoHostWait() as mode:
        for iteration in range(3):
            scoring_step(selector, features, iteration)
        selector.metrics()
    assert mode.num_calls > 50


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0, 0]),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.clone().__setitem__(x > 0, 0.0),
        lambda x: x.masked_select(x > 0),
        lambda x: (x > 0).nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: torch.unique(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.bincount(torch.ones(3, dtype=torch.int64)),
        lambda x: torch.arange(3).repeat_interleave(torch.tensor([1, 2, 0])),
    ],
)
def test_the_detector_of_host_waits_finds_them(wait):
    with pytest.raises(HostWait), NoHostWait():
        wait(torch.ones(3, 3))


@pytest.mark.parametrize('temperature', [None, 1.0])
def test_a_scoring_step_runs_without_data(temperature):
    # A tensor on the meta device has a shape and no values: whatever reads one fails, `tolist` and
    # a copy to the host included.
    selector = trained(dim=DIM, temperature=temperature)
    features = torch.empty(16, 2 * DIM, 5, 5, device='meta')
    for iteration in range(3):
        scoring_step(selector, features, iteration)
    assert selector.estimator.centroids.device.type == 'meta'
    assert selector.estimator.centroids.shape == (8, DIM)


@pytest.mark.parametrize(
    'wait', [lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x[x > 0], lambda x: x.sum().item()]
)
def test_reading_a_value_without_data_fails(wait):
    with pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.empty(3, device='meta'))


# What a smallest possible operation takes on an idle core of 2.5 GHz. If it takes longer, others
# are using the core, and the limit below is stretched by as much.
SECONDS_PER_SMALL_OPERATION = 1.5e-6


def median_cpu_seconds(work, repetitions: int) -> float:
    durations = []
    for iteration in range(repetitions):
        started = time.thread_time()
        work(iteration)
        durations.append(time.thread_time() - started)
    return statistics.median(durations)


def test_a_scoring_step_takes_less_than_two_milliseconds_of_one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        selector = trained(num_centroids=64, dim=128)
        features, small = randn(16, 128, 20, 20), torch.ones(4)

        def many_small_operations(iteration):
            for _ in range(100):
                small + small

        shares_of_limit = []
        for _ in range(8):
            slowness = median_cpu_seconds(many_small_operations, 10) / 100
            limit = 2e-3 * max(1.0, slowness / SECONDS_PER_SMALL_OPERATION)
            step = median_cpu_seconds(lambda i: scoring_step(selector, features, i), 15)
            shares_of_limit.append(step / limit)
    finally:
        torch.set_num_threads(threads)
    assert min(shares_of_limit) < 1


def test_a_state_loaded_before_the_width_is_known_is_kept():
    trained, fresh = PFB(num_centroids=4, dim=8), PFB(num_centroids=4, dim=32)
    trained.observe(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    fresh.load_state_dict(trained.state_dict())
    fresh.observe(torch.zeros(2, 8))
    assert fresh.ready
    assert fresh.estimator.counts.sum() == trained.estimator.counts.sum() + 2
