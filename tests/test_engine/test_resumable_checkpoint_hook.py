"""Complete files only, and random numbers that go on where they were."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpfb.engine import ResumableCheckpointHook
from mmpfb.engine.random_states import random_states, restore_random_states
from mmpfb.engine.whole_files import WholeFileBackend, remove_partial_files

from .resumable_run import resumable_config


class Kill(BaseException):
    """Ends a run as a signal would: nothing catches it."""


class KillHook(Hook):
    priority = 'LOWEST'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at:
            raise Kill


def train(cfg, kill_at=None):
    runner = Runner.from_cfg(cfg)
    if kill_at is None:
        runner.train()
        return runner
    runner.register_hook(KillHook(kill_at))
    with pytest.raises(Kill):
        runner.train()
    return runner


def assert_equal_runs(left, right):
    for key, value in left.model.state_dict().items():
        assert torch.equal(value, right.model.state_dict()[key]), key
    left, right = left.model.pruner.state_dict(), right.model.pruner.state_dict()
    assert torch.equal(left['selector']['centroids'], right['selector']['centroids'])
    assert {**left, 'selector': None} == {**right, 'selector': None}


# Validation is at 10 and at 20: killed right after a checkpoint before it, in between, and where no
# checkpoint was written in that iteration.
@pytest.mark.parametrize(('interval', 'kill_at'), [(1, 9), (1, 13), (3, 16)])
def test_a_resumed_run_repeats_the_whole_one(tmp_path, interval, kill_at):
    settings = dict(interval=interval)
    whole = train(resumable_config(tmp_path / 'whole', **settings))
    train(resumable_config(tmp_path / 'parts', **settings), kill_at=kill_at)
    resumed = train(resumable_config(tmp_path / 'parts', resume=True, **settings))
    assert_equal_runs(resumed, whole)


def test_a_resumed_run_of_epochs_repeats_the_whole_one(tmp_path):
    def settings(name, resume=False):
        cfg = resumable_config(
            tmp_path / name, resume=resume, by_epoch=True, max_iters=4,
            hook=dict(begin=0.25, end=1.0),
        )
        cfg.train_cfg.val_interval = 1
        cfg.default_hooks.checkpoint.save_best = 'accuracy'
        cfg.default_hooks.checkpoint.rule = 'greater'
        return cfg

    whole = train(settings('whole'))
    train(settings('parts'), kill_at=15)
    assert_equal_runs(train(settings('parts', resume=True)), whole)


def test_a_validation_leaves_the_random_numbers_alone(tmp_path):
    seen = []

    class Watch(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 9:
                seen.append(random_states())

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 10:
                seen.append(random_states())

    runner = Runner.from_cfg(resumable_config(tmp_path, max_iters=11))
    runner.register_hook(Watch())
    runner.train()
    assert torch.equal(seen[0]['torch'], seen[1]['torch'])


def test_as_many_checkpoints_stay_as_asked_for(tmp_path):
    train(resumable_config(tmp_path, max_iters=6))
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == ['iter_5.pth', 'iter_6.pth']
    assert Path(tmp_path, 'last_checkpoint').read_text() == str(tmp_path / 'iter_6.pth')


class Dying(Hook):
    """Dies while a checkpoint is written, or right behind it."""

    def __init__(self, monkeypatch, function, number):
        self.calls = 0
        real = getattr(os, function)

        def killed(*args):
            self.calls += 1
            if self.calls == number:
                raise Kill
            return real(*args)

        monkeypatch.setattr(os, function, killed)


# Every second `fsync` and `replace` is that of `last_checkpoint`.
@pytest.mark.parametrize(
    ('function', 'number', 'last'),
    [('fsync', 7, 3), ('replace', 7, 3), ('fsync', 8, 3), ('replace', 8, 3), ('remove', 2, 4)],
)
def test_killed_while_a_checkpoint_is_written(tmp_path, monkeypatch, function, number, last):
    whole = train(resumable_config(tmp_path / 'whole', max_iters=6))
    folder = tmp_path / 'parts'
    with monkeypatch.context() as patch:
        Dying(patch, function, number)
        with pytest.raises(Kill):
            Runner.from_cfg(resumable_config(folder, max_iters=6)).train()
    assert Path(folder, 'last_checkpoint').read_text() == str(folder / f'iter_{last}.pth')
    for path in folder.glob('*.pth'):
        torch.load(path, weights_only=False)
    resumed = train(resumable_config(folder, max_iters=6, resume=True))
    assert_equal_runs(resumed, whole)
    # Nothing is left of what was begun, nor of what should have been removed.
    assert sorted(path.name for path in folder.glob('*.pth*')) == ['iter_5.pth', 'iter_6.pth']


def test_a_checkpoint_of_the_host_is_resumed_with_a_warning(tmp_path):
    cfg = resumable_config(tmp_path, max_iters=4)
    cfg.default_hooks.checkpoint.type = 'CheckpointHook'
    train(cfg)
    train(resumable_config(tmp_path, max_iters=6, resume=True))
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert log.count('holds no random states for this process') == 1


def test_weights_of_another_run_bring_no_random_states(tmp_path):
    train(resumable_config(tmp_path / 'first', max_iters=3))
    cfg = resumable_config(tmp_path / 'second', max_iters=3)
    cfg.load_from = str(tmp_path / 'first' / 'iter_3.pth')
    runner = Runner.from_cfg(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook))
    runner.train()
    assert hook._restored is None
    assert 'no random states' not in ''.join(
        path.read_text() for path in Path(tmp_path, 'second').glob('*/*.log')
    )


@pytest.mark.parametrize(
    ('settings', 'backend'),
    [
        ({}, {'backend': 'mmpfb.whole_files'}),
        ({'out_dir': 's3://bucket'}, None),
        ({'backend_args': {'backend': 'local'}}, {'backend': 'local'}),
    ],
)
def test_other_places_are_written_to_as_the_host_does(settings, backend):
    assert ResumableCheckpointHook(**settings).backend_args == backend


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        ({'max_keep': 2}, TypeError, '`max_keep`.*did you mean `max_keep_ckpts`'),
        ({'nonsense': 2}, TypeError, '`nonsense`.*it takes .*interval'),
        ({'interval': 'five'}, ValueError, "`interval` to be an integer.*'five'"),
        ({'interval': 0}, ValueError, '`interval` to be an integer of at least 1, but got 0'),
        ({'max_keep_ckpts': -5}, ValueError, '`max_keep_ckpts`.*-5'),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_trained(settings, error, message):
    with pytest.raises(error, match=message):
        ResumableCheckpointHook(**settings)


def log_of(folder):
    return ''.join(path.read_text() for path in Path(folder).glob('*/*.log'))


@pytest.mark.parametrize(('settings', 'warnings'), [({'seed': None}, 1), ({'seed': 1}, 0)])
def test_a_run_without_a_seed_is_warned(tmp_path, settings, warnings):
    cfg = resumable_config(tmp_path, max_iters=1)
    cfg.randomness = settings
    train(cfg)
    assert log_of(tmp_path).count('The run has no seed') == warnings


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_resumed_run_says_that_workers_draw_other_numbers(tmp_path, num_workers):
    for max_iters in (1, 2):
        cfg = resumable_config(tmp_path, max_iters=max_iters, resume=max_iters == 2)
        cfg.train_dataloader.num_workers = num_workers
        train(cfg)
    assert log_of(tmp_path).count('Augmentation in worker processes') == num_workers


def test_random_states_survive_a_checkpoint(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    np.random.randn()  # leaves half of a pair in the state
    torch.save(random_states(), tmp_path / 'states')
    expected = random.random(), np.random.randn(), np.random.rand(), torch.rand(1)
    random.seed(), np.random.seed(), torch.seed()
    restore_random_states(torch.load(tmp_path / 'states', weights_only=True))
    assert (random.random(), np.random.randn(), np.random.rand(), torch.rand(1)) == expected


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    backend, path = WholeFileBackend(), tmp_path / 'folder' / 'file.pth'
    backend.put(b'old', path)
    assert path.read_bytes() == b'old'
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.put_text('new', path)
    assert path.read_bytes() == b'old'
    assert len(list(path.parent.iterdir())) == 2
    remove_partial_files(path.parent)
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_not_filled_further(tmp_path, monkeypatch):
    def fail(_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='No space left'):
        WholeFileBackend().put(b'new', tmp_path / 'file.pth')
    assert list(tmp_path.iterdir()) == []
