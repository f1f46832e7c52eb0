"""Whatever happens in the life of a run, the books are right and the model is left in order.

The books are checked against what the heads were given: the encoder hands a number of every image
on to them, so they tell which images and which labels really arrived, and plain arithmetic tells
how many should have.
"""

import copy
import io
import logging
import math
import pickle
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models import FCNHead
from mmseg.structures import SegDataSample
from torch import nn

from mmpfb.engine import PruningScheduleHook
from mmpfb.pruner import Phase
from tests.states import assert_same_state

SIDE = 8
NUM_CLASSES = 3
NUM_CENTROIDS = 5
LARGEST_BATCH = 6
IGNORED = 255
# Numbers travel in a channel of the images, at a scale that a network does not mind.
NUMBER_UNIT = 1e-4
# An exact binary fraction, as are its steps in a ramp over four iterations.
RATIO = 0.75
SELECTORS = {
    'PFB': dict(type='PFB', num_centroids=NUM_CENTROIDS, dim=4),
    'Uniform': dict(type='Uniform'),
}
MODES = ('reuse', 'rescore')
# Modules in the order in which a step runs them; the batch is cut behind `layer2`.
PLACES = (
    'backbone.layer1',
    'backbone.layer2',
    'backbone.layer3',
    'decode_head.conv_seg',
    'decode_head.loss_decode',
    'auxiliary_head.conv_seg',
)


@MODELS.register_module(force=True)
class NumberedEncoder(BaseModule):
    """Returns three maps, and before them the channel that holds the numbers of the images."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())

    def forward(self, images):
        first = self.layer1(images)
        second = self.layer2(first)
        return images[:, :1], first, second, self.layer3(second)


@MODELS.register_module(force=True)
class WatchedHead(FCNHead):
    """Notes which images and which labels it is given to compute a loss of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.given = []

    def loss(self, inputs, batch_data_samples, train_cfg):
        numbers = [round(value / NUMBER_UNIT) for value in inputs[0][:, 0, 0, 0].tolist()]
        self.given.append((numbers, [sample.number for sample in batch_data_samples]))
        return super().loss(inputs, batch_data_samples, train_cfg)


def head(in_index):
    return dict(
        type='WatchedHead', in_channels=6, in_index=in_index, channels=6, num_convs=0,
        concat_input=False, num_classes=NUM_CLASSES, dropout_ratio=0.0, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )  # fmt: skip


def build(selector, mode, auxiliary=True):
    """Return a segmentor without batch normalisation: one broken image leaves the others alone."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    config = dict(
        type='mmpfb.PFBEncoderDecoder',
        backbone=dict(type='NumberedEncoder'),
        decode_head=head(3),
        # Reads a stage before the cut, which has to be cut as well.
        auxiliary_head=head(1) if auxiliary else None,
        test_cfg=dict(mode='whole'),
        pruning=dict(
            selector=SELECTORS[selector], ratio=RATIO, location='backbone.layer2', mode=mode
        ),
    )
    return MODELS.build(ConfigDict(config)).train()


class Batch(NamedTuple):
    """Images and data samples, and which of the images can be reckoned with."""

    images: torch.Tensor
    samples: list
    numbers: list
    usable: list


def make_batch(numbers, dtype=torch.float32, broken=(), broken_value=math.nan, ignored=False):
    """Return a batch; images at the positions ``broken`` hold ``broken_value``."""
    numbers = list(numbers)
    generator = torch.Generator().manual_seed(numbers[0])
    images = torch.randn(len(numbers), 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(NUM_CLASSES, (len(numbers), 1, SIDE, SIDE), generator=generator)
    for position, number in enumerate(numbers):
        images[position] *= 1 + number % 4
        images[position, 0] = number * NUMBER_UNIT
        if position in broken:
            images[position, 1:] = broken_value
    if ignored:
        labels.fill_(IGNORED)
    shapes = {name: (SIDE, SIDE) for name in ('img_shape', 'ori_shape', 'pad_shape')}
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=label),
            metainfo={'img_path': f'{number}.png', 'number': number, **shapes},
        )
        for number, label in zip(numbers, labels, strict=True)
    ]
    usable = [position not in broken for position in range(len(numbers))]
    return Batch(images.to(dtype), samples, numbers, usable)


class Fault(Exception):
    """Something goes wrong inside of a step."""


class Interruption(KeyboardInterrupt):
    """The user stops a step; no ``Exception``."""


@contextmanager
def failing(model, path, call=0, error=Fault):
    """Raise an error in one call of a submodule."""
    calls = 0

    def fail(module, args):
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise error

    handle = model.get_submodule(path).register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def take_step(model, batch, optimizer=None):
    """Take a training step; like a gradient scaler, update nothing by gradients with a NaN."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss, _ = model.parse_losses(model(batch.images, batch.samples, mode='loss'))
    loss.backward()
    # A finite loss does not tell: where a broken image is pruned behind the first layers, zero
    # times NaN is among the gradients of their weights.
    if torch.isfinite(sum(parameter.grad.sum() for parameter in model.parameters())):
        optimizer.step()


def count_hooks(model):
    kinds = [
        name for name, value in vars(nn.Module()).items()
        if name.endswith('_hooks') and isinstance(value, dict)
    ]  # fmt: skip
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class Schedule(NamedTuple):
    """When what happens, in iterations; the ratio rises in the first ``rising`` pruned ones.

    Something is logged every ``interval`` iterations.
    """

    begin: int = 4
    end: int = 36
    length: int = 40
    rising: int = 4
    interval: int = 3

    def hook(self):
        ramp = self.rising / (self.end - self.begin)
        return PruningScheduleHook(
            self.begin, self.end, by='iter', ramp=ramp, interval=self.interval
        )

    def phase(self, iteration):
        if iteration < self.begin:
            return Phase.OBSERVE
        return Phase.PRUNE if iteration < self.end else Phase.IDLE

    def ratio(self, iteration):
        done = iteration - self.begin
        return Fraction(RATIO) * min(Fraction(done, self.rising) if self.rising else 1, 1)


class WatchedRun:
    """A run that is driven by the real hook, with books of its own.

    Attributes:
        num_images: Number of images that were made.
        seen: Number of images in steps that were counted.
        kept: Number of images that arrived at the heads in those steps.
        pruned: Number of images that did not.
        lost: Number of images in steps that failed before anything was decided.
        observed: Number of usable images that the selector had the chance to learn from.
        unusable: Number of images that the selector could not score.
        carried: Images that are due to be retained since the last pruned step.
    """

    def __init__(self, selector, mode, schedule=None, auxiliary=True):
        self.selector, self.mode, self.auxiliary = selector, mode, auxiliary
        self.schedule = schedule or Schedule()
        self.dtype = torch.float32
        self.num_images = self.seen = self.kept = self.pruned = self.lost = 0
        self.observed = self.unusable = 0
        self.carried = Fraction(0)
        self.hook = self.schedule.hook()
        self.runner = self.new_runner(build(selector, mode, auxiliary))
        self.hook.before_train(self.runner)
        self.num_hooks = count_hooks(self.model)

    def new_runner(self, model, iteration=0, resume=False, seed=1):
        loader = type('Loader', (list,), {'batch_size': LARGEST_BATCH})(range(4))
        return SimpleNamespace(
            model=model, iter=iteration, max_iters=self.schedule.length, seed=seed, hooks=[],
            train_loop=SimpleNamespace(dataloader=loader), _resume=resume, cfg={},
            logger=logging.getLogger('life'), message_hub=MessageHub('life'),
        )  # fmt: skip

    @property
    def model(self):
        return self.runner.model

    @property
    def phase(self):
        return self.schedule.phase(self.runner.iter)

    @property
    def ready(self):
        return self.selector == 'Uniform' or self.observed >= NUM_CENTROIDS

    def new_batch(self, size, broken=(), **kwargs):
        first, self.num_images = self.num_images, self.num_images + size
        return make_batch(range(first, first + size), self.dtype, broken, **kwargs)

    def due(self, size):
        """Return how many images of the next batch have to be retained and what is carried on."""
        if self.phase is not Phase.PRUNE or not self.ready:
            return size, self.carried
        due = self.carried + (1 - self.schedule.ratio(self.runner.iter)) * size
        retained = max(math.floor(due), 1)
        # At most one image is owed.
        return retained, max(due - retained, Fraction(-1))

    def train(self, batch, fault=None, optimizer=None):
        """Take one step and compare it with the books; return whether it came to its end."""
        pruner = self.model.pruner
        size, counted_before = len(batch.numbers), pruner.iteration
        heads = [part for part in self.model.children() if isinstance(part, WatchedHead)]
        for watched in heads:
            watched.given.clear()
        expected, carried = self.due(size)
        given_samples, random_state = list(batch.samples), torch.get_rng_state()

        self.hook.before_train_iter(self.runner, 0)
        assert pruner.phase is self.phase
        done = True
        try:
            with fault or nullcontext():
                take_step(self.model, batch, optimizer)
        except (Fault, Interruption):
            done = False
        if done:
            self.hook.after_train_iter(self.runner, self.runner.iter)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert batch.samples == given_samples

        counted = pruner.iteration - counted_before
        given = [entry for watched in heads for entry in watched.given]
        # A step that fails is counted whole or not at all, and whole if it came to the heads.
        assert counted == 1 if done or given else counted in (0, 1)
        assert len(given) == len(heads) if done else len(given) <= len(heads)
        if not counted:
            self.lost += size
            return done

        kept = list(range(size)) if pruner.last_kept is None else pruner.last_kept
        assert (pruner.last_kept is None) == (expected == size)
        assert len(kept) == expected
        assert kept == sorted(set(kept))
        assert set(kept) <= set(range(size))
        for images, labels in given:
            assert images == labels == [batch.numbers[position] for position in kept]

        self.seen += size
        self.kept += len(given[0][0]) if given else expected
        self.pruned += size - (len(given[0][0]) if given else expected)
        self.carried = carried
        scored = self.phase is Phase.PRUNE or (
            self.phase is Phase.OBSERVE and self.mode == 'reuse'
        )
        if scored and self.selector == 'PFB':
            self.observed += sum(batch.usable[position] for position in kept)
            self.unusable += size - sum(batch.usable)
        return done

    def validate(self, size):
        """Predict and compute losses without training: in evaluation mode or without gradients."""
        batch = self.new_batch(size)
        before = self.model.pruner.state_dict()
        for training, gradients in ((False, True), (False, False), (True, False)):
            self.model.train(training)
            with torch.set_grad_enabled(gradients):
                results = self.model(batch.images, copy.deepcopy(batch.samples), mode='predict')
                assert len(results) == size
                assert len(self.model(batch.images, mode='tensor')) == size
                self.model.decode_head.given.clear()
                losses = self.model(batch.images, batch.samples, mode='loss')
            assert self.model.decode_head.given == [(batch.numbers, batch.numbers)]
            assert all(torch.isfinite(value).all() for value in losses.values())
        self.model.train()
        assert_same_state(self.model.pruner.state_dict(), before)

    def go_on_with(self, twin, batch):
        """Train a copy in place of the model and compare: nothing shared, nothing forgotten."""
        original = self.model
        state = original.pruner.state_dict()
        weights = copy.deepcopy(original.state_dict())
        self.runner.model = twin
        self.train(batch)
        assert_same_state(original.pruner.state_dict(), state)
        assert_same_state(dict(original.state_dict()), dict(weights))
        original.pruner.phase = twin.pruner.phase
        original.pruner.current_ratio = twin.pruner.current_ratio
        original.decode_head.given.clear()
        take_step(original, batch)
        assert original.decode_head.given == twin.decode_head.given
        assert original.pruner.last_kept == twin.pruner.last_kept
        assert_same_state(original.pruner.state_dict(), twin.pruner.state_dict())
        assert_same_state(dict(original.state_dict()), dict(twin.state_dict()))

    def resume(self, batch):
        """Save, build everything anew, and go on with that."""
        checkpoint = {'state_dict': self.model.state_dict()}
        self.hook.before_save_checkpoint(self.runner, checkpoint)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=True)
        model = build(self.selector, self.mode, self.auxiliary).to(self.dtype)
        self.hook = self.schedule.hook()
        # The choices go on with the seed that was saved.
        resumed = self.new_runner(model, self.runner.iter, resume=True, seed=99)
        self.hook.after_load_checkpoint(resumed, loaded)
        model.load_state_dict(loaded['state_dict'], strict=True)
        self.hook.before_train(resumed)
        original, self.runner = self.model, resumed
        self.runner.model = original
        self.go_on_with(model, batch)

    def move(self, dtype):
        self.dtype = dtype
        self.runner.model = self.model.to(dtype)

    def check(self):
        """Check everything that holds between two steps."""
        pruner = self.model.pruner
        assert (pruner.images_seen, pruner.images_kept) == (self.seen, self.kept)
        assert self.seen == self.kept + self.pruned
        assert pruner.non_finite_images == self.unusable
        assert count_hooks(self.model) == self.num_hooks
        assert all(module.training for module in self.model.modules())
        assert torch.is_grad_enabled()
        assert torch.is_autocast_cache_enabled()
        assert pruner.selector.ready == self.ready
        if self.selector == 'PFB':
            state = pruner.state_dict()['selector']
            assert all(torch.isfinite(state[name]).all() for name in ('centroids', 'counts')
                       if state[name] is not None)  # fmt: skip
        if self.selector == 'PFB' and self.ready:
            estimator = pruner.selector.estimator
            assert torch.isfinite(estimator.centroids).all()
            assert int(estimator.counts.min()) >= 1
            assert int(estimator.counts.sum()) == self.observed

    def check_gate(self, size):
        """Check that nothing is cut outside of a training step."""
        with torch.no_grad():
            outputs = self.model.backbone(torch.zeros(size, 3, SIDE, SIDE, dtype=self.dtype))
        assert [len(output) for output in outputs] == [size] * 4


SIZES = st.integers(1, LARGEST_BATCH)


class LifeOfARun(RuleBasedStateMachine):
    """Everything that may happen to a model between its first and its last step, in any order."""

    def __init__(self, selector, mode):
        super().__init__()
        self.run = WatchedRun(selector, mode)

    def train_and_advance(self, batch):
        assert self.run.train(batch)
        runner = self.run.runner
        runner.iter = min(runner.iter + 1, runner.max_iters - 1)

    @initialize(iteration=st.sampled_from([0, 4, 7, 20, 34]))
    def begin(self, iteration):
        self.run.runner.iter = iteration

    @rule(iteration=st.sampled_from([0, 3, 4, 5, 6, 7, 8, 20, 34, 36, 39]))
    def jump(self, iteration):
        """Change phase and ratio."""
        self.run.runner.iter = iteration

    @rule(size=SIZES)
    def train(self, size):
        self.train_and_advance(self.run.new_batch(size))

    @rule(size=SIZES, broken=st.sets(st.integers(0, LARGEST_BATCH - 1), min_size=1))
    def train_on_broken_images(self, size, broken):
        self.train_and_advance(self.run.new_batch(size, broken))

    @rule(size=SIZES)
    def train_on_images_without_labels(self, size):
        self.train_and_advance(self.run.new_batch(size, ignored=True))

    @precondition(lambda self: self.run.phase is Phase.PRUNE and self.run.ready)
    @rule(size=st.integers(3, LARGEST_BATCH), steps=st.integers(2, 6))
    def train_with_constant_settings(self, size, steps):
        run = self.run
        kept, carried = run.kept, run.carried
        share = 1 - run.schedule.ratio(run.runner.iter)
        for _ in range(steps):
            run.train(run.new_batch(size))
        if share * size >= 1 and carried + share * size >= 1:
            assert run.kept - kept == math.floor(carried + steps * share * size)

    @rule(size=SIZES)
    def validate(self, size):
        self.run.validate(size)

    @rule(
        size=SIZES, place=st.sampled_from(PLACES), call=st.integers(0, 1),
        error=st.sampled_from([Fault, Interruption]),
    )  # fmt: skip
    def fail(self, size, place, call, error):
        # Calls are counted because `rescore` runs the first layers twice.
        fault = failing(self.run.model, place, call, error)
        self.run.train(self.run.new_batch(size), fault)
        self.run.check_gate(size)

    @rule(size=SIZES)
    def resume(self, size):
        self.run.resume(self.run.new_batch(size))

    @rule(size=SIZES)
    def copy(self, size):
        self.run.go_on_with(copy.deepcopy(self.run.model), self.run.new_batch(size))

    @rule(size=SIZES)
    def pickle(self, size):
        twin = pickle.loads(pickle.dumps(self.run.model))
        self.run.go_on_with(twin, self.run.new_batch(size))

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def move(self, dtype):
        self.run.move(dtype)

    @invariant()
    def everything_is_in_order(self):
        self.run.check()


LIVES = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('selector', sorted(SELECTORS))
def test_any_life(selector, mode):
    run_state_machine_as_test(lambda: LifeOfARun(selector, mode), settings=LIVES)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('selector', sorted(SELECTORS))
def test_everything_once_in_every_phase(selector, mode):
    run = WatchedRun(selector, mode)
    # The second visit to the middle of the window finds the estimator ready in either mode.
    for iteration in (0, 8, 8, 6, 36):
        run.runner.iter = iteration
        # First of all broken images, which must not become the first centroids.
        run.train(run.new_batch(5, broken=(1, 3)))
        run.check()
        for size in (6, 1, 4):
            run.train(run.new_batch(size))
            run.check()
        run.train(run.new_batch(3, broken=(0, 1, 2)))
        run.train(run.new_batch(4, ignored=True))
        run.check()
        run.validate(3)
        for place, error in zip(PLACES, (Fault, Interruption) * 3, strict=True):
            assert not run.train(run.new_batch(5), failing(run.model, place, 0, error))
            run.check()
            run.check_gate(5)
            # Only the pass that scores runs the first layers once more.
            run.train(run.new_batch(5), failing(run.model, place, 1, error))
            run.check()
            run.check_gate(5)
        run.resume(run.new_batch(5))
        run.go_on_with(copy.deepcopy(run.model), run.new_batch(5))
        run.go_on_with(pickle.loads(pickle.dumps(run.model)), run.new_batch(4))
        run.move(torch.float64)
        run.train(run.new_batch(6))
        run.resume(run.new_batch(6))
        run.move(torch.float32)
        run.train(run.new_batch(6))
        run.check()
    assert run.pruned > 0
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())
