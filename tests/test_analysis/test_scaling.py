"""Bytes are counted by hand here: a float takes four, an index eight."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mmpfb.samplers
import mmpfb.selectors
from mmpfb.analysis import scaling
from mmpfb.analysis.scaling import (
    PARTS,
    SAMPLERS,
    ScoringSize,
    Spread,
    checkpoint_bytes,
    in_fresh_process,
    measure_sampler,
    measure_selector,
    sent_bytes,
    summed_bytes,
    tensors_held,
    time_scoring,
    time_sum_over_ranks,
)
from mmpfb.samplers import EpochSampler
from mmpfb.selectors import PFB, Selector, build_selector

CPU = torch.device('cpu')
SMALL = ScoringSize(batch_size=4, num_centroids=3, dim=2)
# What `torch.save` adds to the tensors of a state.
FILE_FORMAT = 5000
LINUX = Path('/proc/self/clear_refs').exists()


def concrete(module, base):
    kinds = (getattr(module, name) for name in module.__all__)
    return {
        kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, base) and not kind.__abstractmethods__
    }


# ---- Times of one process ---------------------------------------------------------------------


def test_spread_is_that_of_the_times():
    assert Spread.of([9.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, lower=2.0, upper=4.0, lowest=1.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_every_part_of_every_size_takes_time():
    other = ScoringSize(batch_size=2, num_centroids=5, dim=7)
    times = time_scoring([SMALL, other, SMALL], 2, CPU, channels=4, side=2)
    assert list(times) == [SMALL, other]
    for parts in times.values():
        assert tuple(parts) == PARTS
        assert all(0 < part.lowest <= part.lower <= part.median for part in parts.values())


def test_much_more_work_takes_longer():
    large = ScoringSize(batch_size=32, num_centroids=256, dim=512)
    times = time_scoring([SMALL, large], 5, CPU, channels=256, side=16)
    for part in PARTS:
        assert times[large][part].lowest > 2 * times[SMALL][part].lowest, part


def test_a_step_chooses_and_learns_from_the_retained_images(monkeypatch):
    calls = []
    select, observe = PFB.select, PFB.observe

    def recorded_select(self, features, num_retained, generator):
        calls.append(('select', tuple(features.shape), num_retained))
        return select(self, features, num_retained, generator)

    def recorded_observe(self, features):
        calls.append(('observe', tuple(features.shape)))
        observe(self, features)

    monkeypatch.setattr(PFB, 'select', recorded_select)
    monkeypatch.setattr(PFB, 'observe', recorded_observe)
    size = ScoringSize(batch_size=8, num_centroids=3, dim=2)
    parts = scaling._scoring_parts(size, CPU, ratio=0.25, channels=4, side=5)
    assert calls == [('observe', (3, 2))] * 3  # until each selector is ready
    chosen, updated = ('select', (8, 2), 6), ('observe', (6, 2))
    for part, expected in (
        ('choice', [chosen]), ('update', [updated]), ('step', [chosen, updated]), ('pooling', []),
    ):
        calls.clear()
        result = parts[part]()
        assert calls == expected
    assert result.shape == (8, 2)


def test_rounds_are_complete_in_changing_order_and_the_first_ones_do_not_count(monkeypatch):
    rounds = []

    def time_in_turn(variants, repeats, device, warmup):
        assert (repeats, warmup) == (1, 0)
        rounds.append(list(variants))
        return {name: [float(len(rounds))] for name in variants}

    monkeypatch.setattr(scaling, 'time_in_turn', time_in_turn)
    times = time_scoring([SMALL], 3, CPU, channels=4, side=2)
    assert len(rounds) == scaling.WARMUP + 3
    assert all(set(names) == {(SMALL, part) for part in PARTS} for names in rounds)
    assert any(names != rounds[0] for names in rounds)
    first = scaling.WARMUP + 1
    assert times[SMALL]['step'] == Spread.of([first, first + 1, first + 2])


@pytest.mark.gpu
def test_scoring_on_a_gpu():
    times = time_scoring([SMALL], 3, torch.device('cuda'), channels=4, side=2)
    assert times[SMALL]['step'].lowest > 0


@pytest.mark.parametrize(
    ('name', 'value', 'least'), [('batch_size', 1, 2), ('num_centroids', 1, 2), ('dim', 0, 1)]
)
def test_sizes_that_allow_no_choice_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f'`{name}` to be an integer of at least {least}, but got'):
        ScoringSize(**{name: value})


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'repeats': 1}, '`repeats` to be an integer of at least 2, but got 1'),
        ({'ratio': 0}, '`ratio` to be above 0, as 0 prunes nothing'),
        ({'ratio': 1.0}, r'`ratio` to be in \[0, 1\), but got 1.0'),
        ({'channels': 0}, '`channels` to be an integer of at least 1'),
        ({'side': 0}, '`side` to be an integer of at least 1'),
    ],
)
def test_wrong_arguments_of_the_timing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        time_scoring([SMALL], **{'repeats': 2, 'device': CPU, **changes})


# ---- Several processes ------------------------------------------------------------------------


def test_bytes_between_ranks():
    # Three centroids of two dimensions and a count each.
    assert summed_bytes(num_centroids=3, dim=2) == 4 * 3 * (2 + 1)
    assert [sent_bytes(ranks, 36) for ranks in (1, 2, 3, 4)] == [0, 36, 48, 54]


def test_two_ranks_sum():
    times = time_sum_over_ranks(2, num_centroids=3, dim=2, repeats=3)
    assert 0 < times.lowest <= times.median <= times.upper < 10


@pytest.mark.parametrize(
    ('function', 'arguments', 'message'),
    [
        (summed_bytes, (0, 2), '`num_centroids` to be an integer of at least 1'),
        (summed_bytes, (3, 0), '`dim` to be an integer of at least 1'),
        (sent_bytes, (0, 36), '`num_ranks` to be an integer of at least 1'),
        (sent_bytes, (2, 0.5), '`num_bytes` to be an integer of at least 1'),
        (time_sum_over_ranks, (1, 3, 2, 3), '`num_ranks` to be an integer of at least 2'),
        (time_sum_over_ranks, (2, 3, 2, 1), '`repeats` to be an integer of at least 2'),
        (time_sum_over_ranks, (2, 3, 0, 3), '`dim` to be an integer of at least 1'),
    ],
)
def test_wrong_arguments_about_ranks_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


# ---- Selectors --------------------------------------------------------------------------------


def test_tensors_are_found_wherever_they_are_held():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    holder = SimpleNamespace(
        one=one, again={'one': [one]}, pair=[(two, None)], deeper=SimpleNamespace(three=three),
        text='a', kind=torch.nn.Linear, number=3,
    )
    holder.itself = holder
    assert {id(tensor) for tensor in tensors_held(holder)} == {id(one), id(two), id(three)}
    assert len(tensors_held(holder)) == 3
    assert tensors_held(range(5)) == []


def test_memory_of_pfb():
    memory = measure_selector(PFB(num_centroids=3, dim=2), batch_size=4, dim=2)
    centroids, counts = 4 * 3 * 2, 8 * 3
    # The sums and counts of the last batch wait until the centroids are needed again.
    assert memory.tensor_bytes == centroids + counts + 4 * 3 * (2 + 1)
    assert centroids + counts < memory.checkpoint_bytes < FILE_FORMAT
    larger = measure_selector(PFB(num_centroids=300, dim=20), batch_size=4, dim=20)
    grown = larger.checkpoint_bytes - memory.checkpoint_bytes
    assert grown == pytest.approx(300 * (4 * 20 + 8) - centroids - counts, abs=200)


@pytest.mark.parametrize('name', ['Uniform', 'HighLoss', 'DivBS'])
def test_other_selectors_hold_nothing(name):
    memory = measure_selector(build_selector({'type': name}), batch_size=4, dim=2)
    assert (memory.name, memory.tensor_bytes) == (name, 0)
    assert memory.checkpoint_bytes == checkpoint_bytes({})


def test_every_selector_can_be_measured():
    for kind in concrete(mmpfb.selectors, Selector):
        assert measure_selector(kind(), batch_size=4, dim=2).name == kind.__name__


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((1, 2), '`batch_size` to be an integer of at least 2'),
        ((4, 0), '`dim` to be an integer of at least 1'),
    ],
)
def test_wrong_arguments_about_selectors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_selector(PFB(), *arguments)


# ---- Samplers ---------------------------------------------------------------------------------

LOSS, INDEX, IMAGES = 4, 8, 1000
PENDING = INDEX + LOSS
FULL_PLAN, HALF_PLAN = INDEX, INDEX // 2


@pytest.mark.parametrize(
    ('name', 'now', 'most'),
    [
        ('UCB', 2 * LOSS + HALF_PLAN, 2 * LOSS + FULL_PLAN + PENDING),
        ('EpsilonGreedy', 2 * LOSS + HALF_PLAN, 2 * LOSS + FULL_PLAN + PENDING),
        ('UniformDynamic', HALF_PLAN, HALF_PLAN),
        # What is left of the shuffled data set holds on to all of it.
        ('UniformDynamic-replacement=False', HALF_PLAN + INDEX, HALF_PLAN + INDEX),
        ('StaticRandom', HALF_PLAN, HALF_PLAN),
    ],
)
def test_memory_of_samplers(name, now, most):
    memory = measure_sampler(name, IMAGES, ratio=0.5)
    assert (memory.name, memory.num_images) == (name, IMAGES)
    assert memory.tensor_bytes == now * IMAGES
    assert memory.tensor_bytes_highest == most * IMAGES
    needs_losses = SAMPLERS[name][0].needs_losses
    saved = now * IMAGES if needs_losses else 0
    assert saved < memory.checkpoint_bytes < saved + FILE_FORMAT
    assert memory.first_plan_seconds > 0 and memory.plan_seconds > 0
    assert (memory.observe_seconds > 0) == needs_losses


def test_memory_of_infobatch():
    memory = measure_sampler('InfoBatch', IMAGES, ratio=0.5)
    assert memory.tensor_bytes_highest == (LOSS + FULL_PLAN + PENDING) * IMAGES
    # A loss and a weight of every image, and the plan without half of some half of the images.
    planned = (memory.tensor_bytes - 2 * LOSS * IMAGES) / INDEX
    assert planned == pytest.approx(0.75 * IMAGES, abs=50)
    saved = memory.checkpoint_bytes - memory.tensor_bytes
    assert 0 < saved < FILE_FORMAT


def test_every_sampler_can_be_measured():
    assert {kind for kind, _ in SAMPLERS.values()} == concrete(mmpfb.samplers, EpochSampler)


@pytest.mark.skipif(not LINUX, reason='needs Linux')
def test_memory_of_the_process_while_a_pass_is_planned():
    images = 200_000
    memory = measure_sampler('StaticRandom', images, batch_size=5000)
    # At least a shuffled data set, a plan and a list of it; not a multiple of all that there is.
    for peak in (memory.first_peak_bytes, memory.peak_bytes):
        assert INDEX * images < peak < 150 * images
    assert 0 <= memory.resident_bytes < 150 * images


@pytest.mark.skipif(not LINUX, reason='needs Linux')
def test_the_peak_is_that_of_the_function_alone():
    numbers = torch.ones(20_000_000)
    del numbers
    result, seconds, peak = scaling._followed(lambda: float(torch.ones(10_000_000).sum()))
    assert result == 10_000_000
    assert seconds > 0
    assert 4 * 10_000_000 <= peak + 2**20 < 2 * 4 * 10_000_000


def test_without_the_system_telling_memory_of_the_process_is_unknown(monkeypatch):
    def refuse(self, *_):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, 'read_text', refuse)
    monkeypatch.setattr(Path, 'write_text', refuse)
    memory = measure_sampler('UCB', 10)
    assert (memory.resident_bytes, memory.first_peak_bytes, memory.peak_bytes) == (None,) * 3
    assert memory.tensor_bytes == (2 * LOSS + HALF_PLAN) * 10


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('Nobody', 10), '`name` to be one of .*, but got .Nobody'),
        (('UCB', 0), '`num_images` to be an integer of at least 1'),
        (('UCB', 10, 1.0), r'`ratio` to be in \[0, 1\)'),
        (('UCB', 10, 0.5, 0), '`batch_size` to be an integer of at least 1'),
    ],
)
def test_wrong_arguments_about_samplers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_sampler(*arguments)


# ---- Fresh processes --------------------------------------------------------------------------


def test_a_fresh_process_is_another_one():
    assert in_fresh_process(os.getpid) != os.getpid()


def test_an_error_in_a_fresh_process_gets_through():
    with pytest.raises(ValueError, match='invalid literal'):
        in_fresh_process(int, 'no number')


def test_a_process_that_ends_is_reported():
    with pytest.raises(RuntimeError, match=r'_exit\(1,\), but its process was ended'):
        in_fresh_process(os._exit, 1)
