"""Order, length, sharding, weights, resuming: what holds for every method."""

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from mmpfb.errors import EstimatorStateError
from mmpfb.samplers import UCB, InfoBatch, StaticRandom, UniformDynamic

from .methods import IDS, METHODS, Training, assert_same_scores, build, loss_of

every_method = pytest.mark.parametrize('method', METHODS, ids=IDS)
both_kinds = pytest.mark.parametrize('infinite', [False, True])


def epochs(sampler, count, batch_size=None):
    training = Training(sampler, batch_size=batch_size or 4)
    passes = []
    for epoch in range(count):
        before = len(training.trace)
        training.run_pass(epoch)
        passes.append([i for images, _ in training.trace[before:] for i in images])
    return passes


@every_method
def test_a_pass_holds_no_image_twice_and_gets_shorter(method):
    sampler = build(method)
    passes = epochs(sampler, 6)
    for images in passes:
        assert len(images) == len(set(images))
    if sampler.needs_losses:
        assert sorted(passes[0]) == list(range(20))
    assert all(0 < len(images) < 20 for images in passes[1:])
    assert sampler.lengths == tuple(map(len, passes))


@every_method
def test_a_ratio_of_zero_gives_the_order_of_a_full_pass(method):
    plain = build(METHODS[0], ratio=0.0)
    sampler = build(method, ratio=0.0)
    assert not sampler.wants_losses
    for epoch in range(4):
        plain.set_epoch(epoch)
        sampler.set_epoch(epoch)
        assert list(plain) == list(sampler)
        assert sorted(sampler) == list(range(20))
        images = torch.tensor(list(sampler))
        assert sampler.weights_at(0, images) is None
        sampler.observe(images, loss_of(images, epoch))
    stream = build(method, ratio=0.0, infinite=True)
    both = [index for index, _ in zip(stream, range(60), strict=False)]
    assert both == sum((listed(build(method, ratio=0.0), e) for e in range(3)), [])


def listed(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@every_method
def test_the_first_full_pass_has_the_order_of_a_ratio_of_zero(method):
    full = list(build(method, ratio=0.0))
    first = list(build(method))
    assert first == [index for index in full if index in set(first)]


def test_the_order_changes_with_pass_and_seed():
    orders = {tuple(listed(InfoBatch(range(20), 0.0, seed=s), e)) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


@every_method
def test_iterating_twice_advances_nothing(method):
    training = Training(build(method)).run_pass(0)
    sampler = training.sampler
    sampler.set_epoch(1)
    first, length = list(sampler), len(sampler)
    assert length == len(first)
    iter(sampler)
    next(iter(sampler))
    assert list(sampler) == first
    assert len(sampler) == length
    assert len(sampler.lengths) == 2


@every_method
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_data_loader_ends(method, num_workers):
    """A sampler that is its own iterator never does, on current PyTorch."""
    if num_workers and method not in (METHODS[0], METHODS[-1]):
        pytest.skip('workers take long to start')
    sampler = build(method)
    loader = DataLoader(
        torch.arange(20), sampler=sampler, batch_size=3, num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected = list(sampler)
        got = [batch for batch, _ in zip(loader, range(100), strict=False)]
        assert [image.item() for batch in got for image in batch] == expected
        assert len(got) == len(loader)
        images = torch.tensor(expected)
        sampler.observe(images, loss_of(images, epoch))
    assert len(sampler.lengths) == 3


@pytest.mark.parametrize('drop_last', [False, True])
def test_a_batch_sampler_ends(drop_last):
    batches = BatchSampler(InfoBatch(range(10), seed=0), 4, drop_last)
    assert [len(batch) for batch in batches] == ([4, 4] if drop_last else [4, 4, 2])


@every_method
@both_kinds
def test_global_generators_stay_as_they_are(method, infinite):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    sampler = build(method, infinite=infinite)
    training = Training(sampler)
    if infinite:
        training.run(30)
    else:
        for epoch in range(4):
            training.run_pass(epoch)
    sampler.state_dict()
    type(sampler)(range(3), 0.5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_without_a_seed_one_is_drawn():
    orders = {tuple(InfoBatch(range(50))) for _ in range(3)}
    assert len(orders) == 3


# Ranks


@every_method
@pytest.mark.parametrize(('num_images', 'world'), [(20, 2), (7, 3), (1, 4), (2, 5)])
def test_ranks_share_a_pass(method, num_images, world):
    alone = build(method, num_images)
    ranks = [build(method, num_images) for _ in range(world)]
    for rank, sampler in enumerate(ranks):
        sampler.rank, sampler.world_size = rank, world
    for epoch in range(3):
        whole = listed(alone, epoch)
        shares = [listed(sampler, epoch) for sampler in ranks]
        assert {len(share) for share in shares} == {math.ceil(len(whole) / world)}
        assert all(len(sampler) == len(shares[0]) for sampler in ranks)
        together = [index for row in zip(*shares, strict=True) for index in row]
        assert together[: len(whole)] == whole
        repeated = (whole * world)[: len(together) - len(whole)]
        assert together[len(whole) :] == repeated
        images = torch.tensor(whole)
        for sampler in [alone, *ranks]:
            sampler.observe(images, loss_of(images, epoch))


# Weights


@pytest.mark.parametrize('ahead', [0, 3])
@pytest.mark.parametrize('num_images', [5, 20])
def test_weights_belong_to_the_pass_that_drew_the_image(num_images, ahead):
    """With five images and batches of three most batches straddle two passes."""
    sampler = build((InfoBatch, {'threshold': 80}), num_images, infinite=True)
    sampler.losses_follow = True
    plans = []
    plan_next = sampler._plan_next

    def record():
        plan_next()
        plans.append(sampler._plans[max(sampler._plans)])

    sampler._plan_next = record
    training = Training(sampler, ahead=ahead).run(60)
    expected = [
        (index, 1.0 if plan.weights is None else plan.weights[index].item())
        for number, plan in enumerate(plans)
        for index in sampler_order(sampler, number, plan)
    ]
    got = [
        (image, 1.0 if weights is None else weights[place])
        for images, weights in training.trace
        for place, image in enumerate(images)
    ]
    assert got == expected[: len(got)]
    assert any(weight > 1 for _, weight in got)
    # Only those that may still be running are remembered; none is shorter than a batch.
    assert len(sampler._plans) <= ahead + 3


def sampler_order(sampler, number, plan):
    whole = InfoBatch(range(sampler.num_indices), 0.0, seed=sampler.seed)
    return [index for index in listed(whole, number) if index in set(plan.images.tolist())]


def test_weights_of_a_finite_pass_are_its_own():
    training = Training(build((InfoBatch, {'threshold': 80}), length=4)).run_pass(0)
    assert all(weights is None for _, weights in training.trace)
    for epoch in (1, 2):
        start = len(training.trace)
        training.run_pass(epoch)
        weights = [w for _, batch in training.trace[start:] for w in batch]
        assert set(weights) > {1.0}
        assert sum(weights) == pytest.approx(20)
    start = len(training.trace)
    training.run_pass(3)
    assert all(weights is None for _, weights in training.trace[start:])


def test_weights_of_unknown_places_are_refused():
    sampler = build((UCB, {}), infinite=True)
    training = Training(sampler).run(20)
    with pytest.raises(ValueError, match='`position` to be where a known pass drew'):
        sampler.weights_at(10_000, torch.tensor([0]))
    with pytest.raises(ValueError, match='`position` to be where a known pass drew'):
        sampler.weights_at(0, torch.tensor([0]))
    with pytest.raises(ValueError, match='`position` to be where a known pass drew'):
        sampler.weights_at(-1, torch.tensor([0]))
    assert training.step == 20


# Losses


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@every_method
def test_an_image_whose_loss_is_not_finite_is_kept(method, bad):
    sampler = build(method)
    if not sampler.needs_losses:
        pytest.skip('needs no losses')
    images = torch.arange(20)
    losses = torch.linspace(1, 2, 20)
    losses[:2] = bad
    sampler.observe(images, losses)
    assert {0, 1} <= set(listed(sampler, 1))
    assert len(sampler) < 20
    # It recovers: the next finite loss, a small one, counts as its first.
    sampler.observe(images, torch.cat([torch.zeros(2), losses[2:]]))
    for name, score in sampler.scores().items():
        assert score.isfinite().all(), name
    if sampler.score_names == ('mean', 'variance'):
        assert sampler.scores()['mean'][0] == 0


def test_if_all_losses_are_not_finite_nothing_is_pruned():
    for method in ((InfoBatch, {}), (UCB, {})):
        sampler = build(method)
        sampler.observe(torch.arange(20), torch.full((20,), math.nan))
        assert len(listed(sampler, 1)) == 20


def test_images_that_no_loss_was_seen_of_are_kept():
    sampler = build((UCB, {}))
    sampler.observe(torch.arange(4, 20), torch.full((16,), 9.0))
    assert {0, 1, 2, 3} <= set(listed(sampler, 1))


@both_kinds
def test_a_second_pass_without_losses_names_the_hook(infinite):
    sampler = build((InfoBatch, {}), infinite=infinite)
    message = r"default_hooks = dict\(image_losses=dict\(type='mmpfb.ImageLossesHook'\)\)"
    with pytest.raises(RuntimeError, match=message):
        if infinite:
            [index for index, _ in zip(sampler, range(21), strict=False)]
        else:
            list(sampler)
            listed(sampler, 1)
    patient = build((InfoBatch, {}), infinite=infinite)
    patient.losses_follow = True
    if infinite:
        assert len([i for i, _ in zip(patient, range(45), strict=False)]) == 45
    else:
        assert len(list(patient)) == len(listed(patient, 1)) == 20


def test_a_run_that_begins_late_begins_with_a_full_pass():
    sampler = build((InfoBatch, {}))
    images = listed(sampler, 5)
    assert len(images) == 20
    sampler.observe(torch.tensor(images), torch.linspace(0, 1, 20))
    assert len(listed(sampler, 6)) < 20


def test_wrong_losses_are_refused():
    sampler = build((UCB, {}))
    with pytest.raises(ValueError, match='integers and numbers of the same shape'):
        sampler.observe(torch.arange(3), torch.rand(2))
    with pytest.raises(ValueError, match='integers and numbers of the same shape'):
        sampler.observe(torch.rand(2), torch.rand(2))
    sampler.observe(torch.tensor([20]), torch.rand(1))
    with pytest.raises(ValueError, match=r'observed images to be in \[0, 20\)'):
        listed(sampler, 1)


def test_losses_in_half_precision_and_with_gradients():
    sampler = build((InfoBatch, {}), 5)
    losses = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True) * 2
    sampler.observe(torch.tensor([1, 3]), losses)
    assert sampler.scores()['loss'][[1, 3]].tolist() == [2.0, 4.0]


# The same image at several indices


def test_grouped_images_have_one_score_and_go_together():
    sampler = InfoBatch(range(12), 0.5, threshold=100, anneal=1, seed=0)
    assert len(list(sampler)) == 12
    sampler.group_images(torch.arange(12) % 4)
    assert sampler.num_images == 4
    assert sorted(sampler) == list(range(12))
    assert sampler.scores()['loss'].shape == (4,)
    sampler.observe(torch.tensor([0, 1, 2, 3]), torch.tensor([1.0, 1.0, 1.0, 9.0]))
    indices = listed(sampler, 1)
    assert len(indices) == len(sampler) == 6
    images = {index % 4 for index in indices}
    assert images > {3}
    assert sorted(indices) == [index for index in range(12) if index % 4 in images]
    weights = sampler.weights_at(0, torch.tensor(sorted(images)))
    assert sorted(weights.tolist()) == [1.0, 3.0]
    with pytest.raises(RuntimeError, match='but InfoBatch has got some'):
        sampler.group_images(torch.arange(12))


def test_wrong_groups_are_refused():
    with pytest.raises(ValueError, match='`image_of_index` to number the images of 4 indices'):
        InfoBatch(range(4)).group_images(torch.tensor([0, 2, 2, 3]))
    with pytest.raises(ValueError, match='`image_of_index` to number the images of 4 indices'):
        InfoBatch(range(4)).group_images(torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match='StaticRandom needs none'):
        StaticRandom(range(4), 0.5).group_images(torch.arange(4))


# Resuming


def state_through_a_file(sampler, path):
    torch.save(sampler.state_dict(), path)
    return torch.load(path, weights_only=True)


@every_method
def test_finite_runs_resume_at_every_epoch(method, tmp_path):
    whole = Training(build(method))
    for epoch in range(6):
        whole.run_pass(epoch)
    for stop in range(1, 6, 1 if method == METHODS[0] else 2):
        first = Training(build(method))
        for epoch in range(stop):
            first.run_pass(epoch)
        resumed = Training(build(method, num_images=20), step=first.step, trace=first.trace)
        resumed.sampler.load_state_dict(state_through_a_file(first.sampler, tmp_path / 'state'))
        for epoch in range(stop, 6):
            resumed.run_pass(epoch)
        assert resumed.trace == whole.trace
        assert_same_scores(resumed.sampler, whole.sampler)
        assert resumed.sampler.lengths == whole.sampler.lengths


@every_method
@pytest.mark.parametrize('ahead', [0, 4])
@pytest.mark.parametrize('way', ['skip', 'replay', 'replay of an early iterator'])
def test_infinite_runs_resume_at_every_step(method, ahead, way, tmp_path):
    steps = 31
    settings = {'infinite': True, 'length': 3 * steps}
    whole = Training(build(method, **settings), ahead=ahead).run(steps)
    # Batches of three and passes of twenty or ten: every place in a pass comes up.
    for stop in range(1, steps, 1 if method == METHODS[0] else 7):
        first = Training(build(method, **settings), ahead=ahead).run(stop)
        state = state_through_a_file(first.sampler, tmp_path / 'state')
        resumed = Training(build(method, **settings), ahead=ahead)
        if way == 'skip':
            resumed.sampler.load_state_dict(state)
            resumed.sampler.skip(stop * resumed.batch_size)
            resumed.step = stop
            resumed.run(steps - stop)
        else:
            if way == 'replay of an early iterator':
                resumed._indices = iter(resumed.sampler)
                for _ in range(ahead):
                    resumed.draw()
            resumed.sampler.load_state_dict(state)
            if resumed._indices is None:
                for _ in range(ahead):
                    resumed.draw()
            for _ in range(stop):
                resumed.draw()
                resumed._drawn.popleft()
            resumed.step = stop
            resumed.run(steps - stop)
        assert resumed.trace == whole.trace[stop:]
        assert_same_scores(resumed.sampler, whole.sampler)
        assert resumed.sampler.lengths == whole.sampler.lengths


@pytest.mark.parametrize('drop_last', [False, True])
@every_method
def test_finite_samplers_skip_in_a_loop_that_counts_whole_batches(method, drop_last):
    def prepared():
        sampler = build(method, num_images=21)
        sampler.batch_size, sampler.drop_last = 4, drop_last
        return sampler

    whole, batches, ends = prepared(), [], []
    for epoch in range(5):
        whole.set_epoch(epoch)
        for batch in BatchSampler(whole, 4, drop_last):
            batches.append(batch)
        ends.append(len(batches))
        images = torch.arange(21)
        whole.observe(images, loss_of(images, epoch))
    whole_state = whole.state_dict()
    for stop in range(0, ends[-1], 1 if method == METHODS[0] else 3):
        resumed = prepared()
        # The loss of past passes decides about nothing any more, so the last state serves all; it
        # remembers the order of the last pass alone, and pure methods that of every pass.
        resumed.load_state_dict(whole_state)
        resumed.set_epoch(0)
        resumed.skip(stop * 4)
        current = next(number for number, end in enumerate(ends) if stop < end)
        assert resumed._pass == current
        rest = list(BatchSampler(resumed, 4, drop_last))
        assert len(rest) == ends[current] - stop
        if current == 4 or not resumed.needs_losses:
            assert rest == batches[stop : ends[current]]
        # The loop counts from zero again.
        resumed.set_epoch(0)
        assert len(list(BatchSampler(resumed, 4, drop_last))) == len(rest)
        for later in range(current + 1, 5):
            resumed.set_epoch(later - current)
            assert resumed._pass == later
            found = list(BatchSampler(resumed, 4, drop_last))
            assert len(found) == ends[later] - ends[later - 1]
            if later == 4 or not resumed.needs_losses:
                assert found == batches[ends[later - 1] : ends[later]]


@every_method
@both_kinds
def test_skipping_without_a_state_finds_the_place_of_a_new_run(method, infinite):
    sampler = build(method, infinite=infinite)
    sampler.skip(47)
    found = [index for index, _ in zip(sampler, range(5), strict=False)]
    plain = build(method)
    if plain.needs_losses:
        expected = listed(build(method, ratio=0.0), 2)[7:12]
    else:
        expected = listed(plain, 4)[7:12]
    assert len(expected) >= 3
    assert found[: len(expected)] == expected


def test_skip_refuses_what_makes_no_sense():
    sampler = build((UniformDynamic, {}), 5)
    with pytest.raises(ValueError, match='`num_samples` to be an integer of at least 0'):
        sampler.skip(-1)
    sampler.batch_size, sampler.drop_last = 4, True
    with pytest.raises(ValueError, match='a pass to hold a whole batch of 4'):
        sampler.skip(4)


def test_the_state_of_something_else_is_refused():
    state = build((UCB, {})).state_dict()
    for other in (build((UCB, {}), 21), build((InfoBatch, {}))):
        with pytest.raises(EstimatorStateError, match='the same method, number of indices'):
            other.load_state_dict(state)
    grouped = InfoBatch(range(20))
    grouped.group_images(torch.arange(20) // 2)
    with pytest.raises(EstimatorStateError, match='the same method, number of indices'):
        grouped.load_state_dict(build((InfoBatch, {})).state_dict())


def test_the_seed_is_part_of_the_state():
    first, second = InfoBatch(range(20), seed=1), InfoBatch(range(20), seed=2)
    second.load_state_dict(first.state_dict())
    assert list(first) == list(second)


@every_method
@both_kinds
@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_in_mid_pass_go_on_alike(method, infinite, copied):
    training = Training(build(method, infinite=infinite))
    if infinite:
        training.run(11)
    else:
        training.run_pass(0).run_pass(1)
        training.sampler.set_epoch(2)
        next(iter(training.sampler))
    twin = copied(training.sampler)
    assert_same_scores(twin, training.sampler)
    if infinite:
        twin.skip(33)
        assert [i for i, _ in zip(twin, range(30), strict=False)] == [
            i for i, _ in zip(training._indices, range(30), strict=False)
        ]
    else:
        assert list(twin) == list(training.sampler)
        images = torch.arange(20)
        for sampler in (twin, training.sampler):
            sampler.observe(images, loss_of(images, 9))
        assert listed(twin, 3) == listed(training.sampler, 3)
