"""Every method against its formula as a slow loop."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpfb.samplers import UCB, EpsilonGreedy, InfoBatch, StaticRandom, UniformDynamic
from mmpfb.samplers.infobatch import percentile

from ..oracles import samplers as oracle

# Quarters are exact in float32, and few of them make ties.
LOSS = st.one_of(
    st.integers(0, 12).map(lambda number: number / 4),
    st.sampled_from([math.nan, math.inf]),
)
LOSSES = st.lists(LOSS, min_size=1, max_size=30)
RATIO = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.99])


def observed(sampler, losses):
    sampler.observe(torch.arange(len(losses)), torch.tensor(losses))
    sampler.set_epoch(1)
    return sampler


def planned(sampler):
    """The plan of the pass after that of the losses."""
    sampler.set_epoch(1)
    sampler.__len__()
    return sampler._plan_of(1)


def known(losses):
    return [loss if math.isfinite(loss) else None for loss in losses]


@settings(deadline=None)
@given(LOSSES, RATIO, st.sampled_from(['mean', 0, 20, 95, 100]))
def test_infobatch(losses, ratio, threshold):
    sampler = InfoBatch(losses, ratio, threshold, anneal=1, seed=0)
    plan = planned(observed(sampler, losses))
    low = oracle.low_images(known(losses), threshold)
    chosen = set(plan.images.tolist())
    assert set(range(len(losses))) - set(low) <= chosen
    kept = chosen & set(low)
    exact = Fraction(1) - Fraction(str(ratio))
    assert len(kept) == (max(math.floor(exact * len(low)), 1) if low else 0)
    if len(chosen) == len(losses):
        assert plan.weights is None
    else:
        for image in chosen:
            weight = len(low) / len(kept) if image in kept else 1.0
            assert plan.weights[image] == pytest.approx(weight)
        # The weights of a pass add up to the images that it stands for.
        assert plan.weights[plan.images].sum().item() == pytest.approx(len(losses), rel=1e-5)


def test_infobatch_draws_every_subset_equally_often():
    losses = torch.tensor([0.0, 0.25, 0.5, 0.5, 0.75, 9.0])
    low = 5
    counts = torch.zeros(6)
    gradients = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(4)
    runs = 3000
    for seed in range(runs):
        sampler = InfoBatch(losses, 0.5, anneal=1, seed=seed)
        plan = planned(observed(sampler, losses.tolist()))
        counts[plan.images] += 1
        total += (plan.weights[plan.images, None] * gradients[plan.images]).sum(0)
    # Two of five are kept: floor(2.5).
    assert counts[5] == runs
    spread = math.sqrt(runs * 0.4 * 0.6)
    assert (counts[:low] - 0.4 * runs).abs().max() < 4 * spread
    # Five images, each with a weight of 2.5 with probability 0.4: variance 1.5 * square.
    error = math.sqrt(1.5 * runs) * gradients[:low].square().sum(0).sqrt()
    assert ((total - runs * gradients.sum(0)).abs() < 4 * error).all()


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=20), st.floats(0, 100))
def test_percentile_is_the_linear_one(values, percent):
    got = percentile(torch.tensor(values, dtype=torch.float64), percent)
    assert got.item() == pytest.approx(np.percentile(values, percent), abs=1e-9)
    assert got.item() == pytest.approx(
        torch.tensor(values, dtype=torch.float64).quantile(percent / 100).item(), abs=1e-9
    )


@settings(deadline=None)
@given(
    st.lists(st.lists(LOSS, min_size=1, max_size=4), min_size=1, max_size=15),
    RATIO,
    st.sampled_from([0.3, 0.8, 1.0]),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_ucb(histories, ratio, alpha, confidence):
    sampler = UCB(histories, ratio, alpha, confidence, seed=0)
    observe_histories(sampler, histories)
    averages = [oracle.moving_averages(history, alpha) for history in histories]
    check_averages(sampler, averages)
    # From float32, so that rounding cannot break ties that the other side does not see.
    scores = sampler.scores()
    bounds = [
        None if mean is None else float(scores['mean'][i] + confidence * scores['variance'][i])
        for i, (mean, _) in enumerate(averages)
    ]
    count = max(oracle.retained(len(histories), Fraction(str(ratio))), bounds.count(None))
    assert planned(sampler).images.tolist() == sorted(oracle.largest(bounds, count))
    assert planned(sampler).weights is None


@settings(deadline=None)
@given(
    st.lists(st.lists(LOSS, min_size=1, max_size=4), min_size=1, max_size=15),
    RATIO,
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_epsilon_greedy(histories, ratio, epsilon):
    sampler = EpsilonGreedy(histories, ratio, epsilon, alpha=0.5, seed=0)
    observe_histories(sampler, histories)
    averages = [oracle.moving_averages(history, 0.5) for history in histories]
    check_averages(sampler, averages)
    means = [
        None if mean is None else float(sampler.scores()['mean'][i])
        for i, (mean, _) in enumerate(averages)
    ]
    count = max(oracle.retained(len(histories), Fraction(str(ratio))), means.count(None))
    num_random = min(
        math.floor(Fraction(str(epsilon)) * count), count - means.count(None)
    )
    chosen = planned(sampler).images.tolist()
    assert len(chosen) == len(set(chosen)) == count
    assert set(oracle.largest(means, count - num_random)) <= set(chosen)


def observe_histories(sampler, histories):
    """The first losses of all images, then the second of those that have one, and so on."""
    for turn in range(max(map(len, histories))):
        images = [image for image, history in enumerate(histories) if turn < len(history)]
        losses = [histories[image][turn] for image in images]
        sampler.observe(torch.tensor(images), torch.tensor(losses))


def check_averages(sampler, averages):
    scores = sampler.scores()
    for image, (mean, variance) in enumerate(averages):
        if mean is None:
            assert scores['mean'][image].isnan()
        else:
            assert scores['mean'][image].item() == pytest.approx(mean, rel=1e-5, abs=1e-6)
            assert scores['variance'][image].item() == pytest.approx(variance, rel=1e-4, abs=1e-5)


def test_random_part_of_epsilon_greedy_is_uniform():
    counts = torch.zeros(10)
    for seed in range(1500):
        sampler = EpsilonGreedy(range(10), 0.5, epsilon=0.4, seed=seed)
        counts[planned(observed(sampler, [float(i) for i in range(10)])).images] += 1
    assert (counts[7:] == 1500).all()
    expected = 1500 * 2 / 7
    spread = math.sqrt(1500 * 2 / 7 * 5 / 7)
    assert (counts[:7] - expected).abs().max() < 4 * spread


def test_repeated_images_of_a_step_count_in_their_order():
    sampler = UCB(range(3), 0.5, alpha=0.5, seed=0)
    sampler.observe(torch.tensor([1, 2, 1]), torch.tensor([4.0, 1.0, 8.0]))
    sampler.observe(torch.tensor([1]), torch.tensor([0.0]))
    mean, variance = oracle.moving_averages([4.0, 8.0, 0.0], 0.5)
    scores = sampler.scores()
    assert scores['mean'].tolist()[1:] == [mean, 1.0]
    assert scores['variance'].tolist()[1:] == [variance, 0.0]
    assert scores['mean'][0].isnan()

    last = InfoBatch(range(3), seed=0)
    last.observe(torch.tensor([1, 2, 1]), torch.tensor([4.0, 1.0, 8.0]))
    assert last.scores()['loss'].tolist()[1:] == [8.0, 1.0]


def test_many_steps_are_as_one():
    sampler, whole = (UCB(range(50), 0.5, seed=0) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 50, (3000,), generator=generator)
    losses = torch.rand(3000, generator=generator)
    for image, loss in zip(images, losses, strict=True):
        sampler.observe(image[None], loss[None])
    assert len(sampler._pending) + len(sampler._recent) < 1024
    whole.observe(images, losses)
    assert sampler.scores()['mean'].equal(whole.scores()['mean'])
    for image in (0, 49):
        mean, _ = oracle.moving_averages(losses[images == image].tolist(), 0.8)
        assert sampler.scores()['mean'][image].item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize('method', [UCB, EpsilonGreedy])
def test_a_choice_lasts_for_its_period(method):
    sampler = method(range(40), 0.5, period=3, seed=0)
    plans = []
    for epoch in range(8):
        sampler.set_epoch(epoch)
        plans.append(set(sampler))
        losses = torch.rand(40, generator=torch.Generator().manual_seed(epoch))
        sampler.observe(torch.arange(40), losses)
    assert len(plans[0]) == 40
    assert plans[1] == plans[2] == plans[3] != plans[4]
    assert plans[4] == plans[5] == plans[6] != plans[7]


def subsets(sampler, passes):
    found = []
    for epoch in range(passes):
        sampler.set_epoch(epoch)
        found.append(sorted(sampler))
    return found


def test_static_random_is_one_subset():
    found = subsets(StaticRandom(range(10), 0.3, seed=1), 5)
    assert len(found[0]) == 7
    assert all(subset == found[0] for subset in found)
    assert found[0] != subsets(StaticRandom(range(10), 0.3, seed=2), 1)[0]


def test_uniform_with_replacement_is_uniform_and_independent():
    found = subsets(UniformDynamic(range(10), 0.7, seed=0), 2000)
    assert all(len(set(subset)) == 3 for subset in found)
    counts = np.bincount(np.concatenate(found))
    assert np.abs(counts - 600).max() < 4 * math.sqrt(2000 * 0.3 * 0.7)
    pairs = sum(len(set(a) & set(b)) for a, b in zip(found, found[1:], strict=False))
    assert abs(pairs / 1999 - 0.9) < 0.1


@pytest.mark.parametrize(('size', 'ratio'), [(10, 0.5), (10, 0.3), (7, 0.4), (11, 0.9), (1, 0.5)])
def test_uniform_without_replacement_walks_through_shuffles(size, ratio):
    sampler = UniformDynamic(range(size), ratio, replacement=False, seed=0)
    count = oracle.retained(size, Fraction(str(ratio)))
    found = subsets(sampler, 40)
    drawn = np.zeros(size, dtype=int)
    for number, subset in enumerate(found, start=1):
        assert len(set(subset)) == count
        drawn[subset] += 1
        # All images were drawn as often as whole shuffles went by, and some once more.
        full = number * count // size
        assert drawn.min() >= full - 1
        assert drawn.max() <= full + 2
        if number * count % size == 0:
            assert (drawn == full).all()
    if 0 < count < size:
        assert len({tuple(subset) for subset in found}) > 3


def test_uniform_without_replacement_depends_on_seed_and_pass_alone():
    forwards = UniformDynamic(range(11), 0.4, replacement=False, seed=5)
    found = subsets(forwards, 12)
    for epoch in (7, 3, 11, 0, 10):
        forwards.set_epoch(epoch)
        assert sorted(forwards) == found[epoch]
        fresh = UniformDynamic(range(11), 0.4, replacement=False, seed=5)
        fresh.set_epoch(epoch)
        assert sorted(fresh) == found[epoch]


def test_a_period_of_uniform_choices():
    found = subsets(UniformDynamic(range(30), 0.5, period=2, seed=5), 6)
    assert found[0] == found[1] != found[2] == found[3] != found[4]


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: InfoBatch([], 0.5), '`dataset` to hold images'),
        (lambda: InfoBatch([1], 1.0), r'`ratio` to be in \[0, 1\)'),
        (lambda: InfoBatch([1], threshold='median'), "`threshold` to be 'mean' or a percentile"),
        (lambda: InfoBatch([1], threshold=101), r'`threshold` to be in \[0, 100\]'),
        (lambda: InfoBatch([1], anneal=0), r'`anneal` to be in \(0, 1\]'),
        (lambda: InfoBatch([1], infinite='no'), '`infinite` to be True or False'),
        (lambda: InfoBatch([1], shuffle=False), '`shuffle` to be True'),
        (lambda: UCB([1], 0.5, alpha=0), r'`alpha` to be in \(0, 1\]'),
        (lambda: UCB([1], 0.5, confidence=-1), '`confidence` to be a finite number'),
        (lambda: UCB([1], 0.5, period=0), '`period` to be an integer of at least 1'),
        (lambda: EpsilonGreedy([1], 0.5, epsilon=1.1), r'`epsilon` to be in \[0, 1\]'),
        (lambda: UniformDynamic([1], 0.5, replacement=1), '`replacement` to be True or False'),
        (lambda: UniformDynamic([1], 0.5, period=0), '`period` to be an integer of at least 1'),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
