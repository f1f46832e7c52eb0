"""The record of a run, on a real runner that trains in a second."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmpfb.engine import RunRecordHook, run_record_hook

from .tiny_run import config

LENGTH = 12


@METRICS.register_module(force=True)
class MeanLogit(BaseMetric):
    """A number that changes with every step of the training."""

    def process(self, data_batch, data_samples):
        self.results += [one['seg_logits']['data'].mean().item() for one in data_samples]

    def compute_metrics(self, results):
        return {'logit': sum(results)}


class FalseClock(Hook):
    """Lets an iteration take a second and all else an eternity; may stop the run."""

    priority = 'VERY_HIGH'

    def __init__(self, stops):
        self.now, self.stops = 0.0, stops

    def perf_counter(self):
        return self.now

    def before_train_epoch(self, runner):
        if runner.cfg.resume:
            # The loop now goes through the data that it has seen.
            self.now += 10_000

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._stop('train', runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += 1

    def before_val_epoch(self, runner):
        self.now += 1000
        self._stop('val', runner.iter)

    def _stop(self, *where):
        if where == self.stops:
            raise KeyboardInterrupt


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Train and return the record, or None if the run was stopped."""

    def run(*, folder='run', stops=None, resume=False, change=None, **settings):
        cfg = config(tmp_path / folder, **{'max_iters': LENGTH, **settings})
        cfg.default_hooks.run_record = dict(type='mmpfb.RunRecordHook')
        cfg.val_evaluator = dict(type='MeanLogit')
        cfg.resume = resume
        if change is not None:
            change(cfg)
        runner = Runner.from_cfg(cfg)
        clock = FalseClock(stops)
        monkeypatch.setattr(run_record_hook, 'time', clock)
        runner.register_hook(clock)
        try:
            runner.train()
        except KeyboardInterrupt:
            assert stops is not None
        path = tmp_path / folder / 'run_record.json'
        assert sorted(path.parent.glob('run_record*')) == [path] * path.is_file()
        return json.loads(path.read_text()) if path.is_file() else None

    return run


def test_record_of_a_pruned_run(trained):
    record = trained()
    assert record['metrics'].pop('logit') != 0
    assert record.pop('peak_memory_bytes') > 2**26
    # From a quarter to three quarters of twelve iterations half of the four images are pruned.
    assert record == {
        'iterations': 12,
        'images_loaded': 48,
        'images_seen_while_pruning': 24,
        'images_kept_while_pruning': 12,
        'images_trained': 36,
        # Neither of the two validations is in it.
        'seconds': 12.0,
        'peak_memory_kind': 'GPU' if torch.cuda.is_available() else 'process',
        'metrics': {},
    }


def test_record_of_a_stock_model_in_epochs(trained):
    def ten_images(cfg):
        cfg.train_dataloader.dataset.length = 10

    record = trained(max_iters=2, by_epoch=True, pruning=False, hook=False, change=ten_images)
    assert (record['iterations'], record['seconds']) == (6, 6.0)
    # The last batch of an epoch holds two images.
    assert (record['images_loaded'], record['images_trained']) == (20, 20)
    assert record['images_seen_while_pruning'] == 0
    assert list(record['metrics']) == ['logit']


# The last one was killed in its last validation, after its last checkpoint was written.
@pytest.mark.parametrize(
    ('stops', 'prunes'), [(('train', 7), True), (('val', 10), False), (('val', 12), True)]
)
def test_a_resumed_run_has_the_record_of_an_uninterrupted_one(trained, stops, prunes):
    settings = {} if prunes else {'pruning': False, 'hook': False}

    def often(cfg):
        cfg.default_hooks.checkpoint.interval = 2

    whole = trained(folder='whole', **settings)
    assert trained(stops=stops, change=often, **settings) is None
    resumed = trained(resume=True, change=often, **settings)
    assert resumed == {**whole, 'peak_memory_bytes': resumed['peak_memory_bytes']}


def test_weights_of_another_run_bring_no_counts(trained, tmp_path):
    whole = trained(folder='whole')

    def load(cfg):
        cfg.load_from = str(tmp_path / 'whole/iter_12.pth')

    begun_anew = trained(change=load)
    assert begun_anew['images_loaded'] == whole['images_loaded']
    assert begun_anew['metrics'] != whole['metrics']


def test_a_checkpoint_without_a_record_is_told_of(trained, tmp_path):
    def without_hook(cfg):
        del cfg.default_hooks['run_record']

    assert trained(change=without_hook, max_iters=5) is None
    assert trained(resume=True)['images_loaded'] == 4 * (12 - 5)
    log = ''.join(path.read_text() for path in tmp_path.glob('run/*/*.log'))
    assert 'holds no record of its run' in log


def test_only_numbers_of_a_validation_are_recorded():
    hook, checkpoint = RunRecordHook(), {}
    metrics = {
        'mIoU': np.float32(50), 'top1': torch.tensor(60), 'classwise': [1.0, 2.0], 'note': 'good',
    }
    hook.after_val_epoch(SimpleNamespace(iter=3), metrics)
    hook.before_save_checkpoint(SimpleNamespace(), checkpoint)
    assert checkpoint['mmpfb_run']['metrics'] == {'mIoU': 50.0, 'top1': 60.0}
