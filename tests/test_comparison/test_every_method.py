"""One table of methods, and what each of them has to keep to. A new method joins by a row."""

import copy
import json
import os
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpfb.analysis.planned_images import planned_images
from mmpfb.comparison.methods import METHODS, Plan, parse_method
from mmpfb.core.schedule import PruningWindow
from mmpfb.engine.run_record_hook import RECORD_FILE
from tests.ranks import run_on_ranks
from tests.test_engine import tiny_run

ITERATIONS, SHORT, PER_EPOCH, BATCH = 20, 14, 6, 4
ALL = [
    'full',
    'short',
    'uniform',
    'pfb:num_centroids=8',
    'pfb:num_centroids=8,temperature=1.0',
    'highloss',
    'divbs',
    'divbs:greedy=True',
    'infobatch',
    'infobatch:threshold=95.0',
    'ucb',
    'epsilon-greedy',
    'uniform-dynamic',
    'uniform-dynamic:replacement=False',
    'static-random',
]
IN_BATCH = [text for text in ALL if parse_method(text).kind == 'batch']
IN_EPOCH = [text for text in ALL if parse_method(text).kind == 'epoch']


def configured(text, work_dir, ratio=0.5, equal_images=True):
    base = tiny_run.config(work_dir, max_iters=ITERATIONS, pruning=False, hook=False)
    plan = Plan(base, ratio, ITERATIONS, SHORT, PER_EPOCH, equal_images)
    return plan.config_of(parse_method(text), seed=3)


def trained(text, work_dir, **settings):
    runner = Runner.from_cfg(configured(text, work_dir, **settings))
    runner.train()
    return runner


def record(runner):
    with open(os.path.join(runner.work_dir, RECORD_FILE)) as file:
        return json.load(file)


def states():
    return (
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
    )


def assert_equal_weights(left, right):
    left, right = left.model.state_dict(), right.model.state_dict()
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


@pytest.fixture(scope='module')
def full_run(tmp_path_factory):
    """Return the plain training, the state of all generators after it, and its record."""
    runner = trained('full', tmp_path_factory.mktemp('full'))
    return runner, states(), record(runner)


def test_the_table_is_complete():
    assert {parse_method(text).name for text in ALL} == METHODS.keys()


@pytest.mark.parametrize('text', ALL)
def test_it_trains_on_the_promised_images_and_draws_from_no_generator_of_others(
    text, tmp_path, full_run
):
    kind = parse_method(text).kind
    runner = trained(text, tmp_path, equal_images=kind == 'short')
    # As many random numbers as the plain training of as many iterations takes.
    assert kind == 'short' or states() == full_run[1]
    assert all(torch.isfinite(value).all() for value in runner.model.parameters())
    window = PruningWindow(1, 18)
    expected = {
        'full': ITERATIONS * BATCH,
        'short': SHORT * BATCH,
        'batch': planned_images(ITERATIONS, BATCH, window, 0.5),
        'epoch': ITERATIONS * BATCH,
    }[kind]
    missing = 0
    if 'pfb' in text:
        # The second batch completes the centroids and is trained whole.
        missing = 2
    assert record(runner)['images_trained'] == expected + missing


@pytest.mark.parametrize('text', IN_EPOCH)
def test_with_equal_images_an_epoch_level_method_has_fewer_iterations(text, tmp_path):
    config = configured(text, tmp_path)
    assert config.train_cfg.max_iters == SHORT
    assert config.train_dataloader.sampler.infinite


@pytest.mark.parametrize('text', IN_BATCH)
def test_in_a_batch_ratio_zero_is_the_stock_training(text, tmp_path, full_run):
    with pytest.warns(UserWarning, match='ratio=0 prunes no image'):
        runner = trained(text, tmp_path, ratio=0.0)
    assert_equal_weights(runner, full_run[0])


@pytest.fixture(scope='module')
def unpruned_epochs(tmp_path_factory):
    """Return a training on all images in the order of the samplers."""
    path = tmp_path_factory.mktemp('unpruned')
    return trained('uniform-dynamic', path, ratio=0.0, equal_images=False)


@pytest.mark.parametrize('text', IN_EPOCH)
def test_in_an_epoch_ratio_zero_prunes_nothing(text, tmp_path, unpruned_epochs):
    runner = trained(text, tmp_path, ratio=0.0, equal_images=False)
    assert_equal_weights(runner, unpruned_epochs)
    assert set(runner.train_dataloader.sampler.lengths) == {24}


class Interruption(Exception):
    pass


class InterruptHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 12:
            raise Interruption


@pytest.mark.parametrize('text', ALL)
def test_a_resumed_run_is_the_run_that_was_never_interrupted(text, tmp_path):
    whole = trained(text, tmp_path / 'whole', equal_images=False)
    config = configured(text, tmp_path / 'cut', equal_images=False)
    runner = Runner.from_cfg(config)
    runner.register_hook(InterruptHook())
    with pytest.raises(Interruption):
        runner.train()
    resumed = Runner.from_cfg(
        type(config)({**config.to_dict(), 'resume': True, 'experiment_name': 'resumed'})
    )
    resumed.train()
    assert_equal_weights(resumed, whole)
    left, right = record(resumed), record(whole)
    for unequal in ('seconds', 'peak_memory_bytes'):
        left.pop(unequal), right.pop(unequal)
    assert left == right


@pytest.mark.parametrize('text', [*IN_BATCH, *IN_EPOCH])
def test_it_copies_and_pickles_after_a_run(text, tmp_path):
    runner = trained(text, tmp_path)
    if text in IN_EPOCH:
        sampler = runner.train_dataloader.sampler
        sampler.skip(30)
        stream = iter(sampler)
        expected = [next(stream) for _ in range(40)]
        for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
            stream = iter(other)
            assert [next(stream) for _ in range(40)] == expected
        return
    selector = runner.model.pruner.selector
    for other in (copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
        assert type(other) is type(selector)
        left, right = other.state_dict(), selector.state_dict()
        assert left.keys() == right.keys()
        assert all(torch.equal(torch.as_tensor(left[key]), torch.as_tensor(right[key]))
                   for key in left)


class NamesHook(Hook):
    def __init__(self):
        self.names = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.names += [sample.img_path for sample in data_batch['data_samples']]


def on_each_rank(folder):
    outcome = {}
    for text in ALL:
        runner = Runner.from_cfg(configured(text, f'{folder}/{text}'.replace(':', '-')))
        names = NamesHook()
        runner.register_hook(names)
        runner.train()
        sampler = runner.train_dataloader.sampler
        in_pass, scores = 12, None
        if text in IN_EPOCH:
            in_pass = sampler.lengths[0] // 2
            scores = {name: score.tolist() for name, score in sampler.scores().items()}
        outcome[text] = names.names[:in_pass], scores
    return outcome


@pytest.mark.slow
def test_two_ranks_see_different_images_and_know_the_same(tmp_path):
    first, second = run_on_ranks(on_each_rank, 2, str(tmp_path))
    for text in ALL:
        assert not set(first[text][0]) & set(second[text][0]), text
        assert len(first[text][0]) == len(second[text][0]) > 4, text
        # As text: missing scores are NaN, which equals nothing.
        assert str(first[text][1]) == str(second[text][1]), text
