"""Classifiers in whole runs: epochs, moving averages, accumulation, mixing, resuming."""

import json
import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .tiny_classification import NUM_CLASSES, config, run


def summary(work_dir):
    return json.loads((work_dir / 'pruning_summary.json').read_text())


def weights(runner):
    model = getattr(runner.model, 'module', runner.model)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_images_are_pruned_in_the_epochs_asked_for(tmp_path):
    runner = run(tmp_path)
    rows = []
    for path in tmp_path.rglob('scalars.json'):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    ratios = {row['epoch']: row['pruning/ratio'] for row in rows if 'pruning/ratio' in row}
    assert ratios == {1: 0.0, 2: 0.5, 3: 0.5, 4: 0.0}
    found = summary(tmp_path)
    assert (found['images_seen'], found['images_kept']) == (4 * 24, 2 * 24 + 2 * 12)
    assert runner.model.pruner.iterations_pruned == 8
    # What is not measured any more is not logged any more.
    last = [row for row in rows if row.get('epoch') == 4 and 'loss' in row]
    assert last
    assert all('pruning/random_share' not in row for row in last)


def test_the_last_batch_of_an_epoch_may_be_smaller(tmp_path):
    def shorten(cfg):
        cfg.train_dataloader.dataset.length = 20  # 6 + 6 + 6 + 2

    run(tmp_path, shorten)
    found = summary(tmp_path)
    assert found['images_seen'] == 80
    # Fractions are carried over: half of the images of the two pruned epochs, to the image.
    assert found['images_kept'] == 2 * 20 + 20


@pytest.mark.parametrize('options', [{}, {'update_buffers': True}], ids=['plain', 'buffers'])
def test_exponential_moving_average(tmp_path, options):
    def average(cfg):
        cfg.custom_hooks = [
            dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1, **options)
        ]

    runner = run(tmp_path, average)
    assert summary(tmp_path)['images_kept'] == 72
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    # The hook saves the average as the model, so that a test of the checkpoint uses it.
    name = 'head.fc.weight'
    assert not torch.equal(
        checkpoint['state_dict'][name], checkpoint['ema_state_dict'][f'module.{name}']
    )
    averaged = runner.model.state_dict()
    assert set(averaged) == set(checkpoint['state_dict'])
    assert runner.model.pruner.images_seen == 96


def test_gradient_accumulation_takes_the_retained_images_of_every_batch(tmp_path):
    def accumulate(cfg):
        cfg.optim_wrapper.accumulative_counts = 2

    runner = run(tmp_path, accumulate)
    assert summary(tmp_path)['images_kept'] == 72
    assert runner.optim_wrapper.inner_count == 16


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_images(tmp_path, augment):
    def mix(cfg):
        cfg.model.train_cfg = dict(augments=dict(type=augment, alpha=1.0))
        cfg.model.head.loss = dict(type='CrossEntropyLoss', use_soft=True)

    run(tmp_path, mix)
    assert summary(tmp_path)['images_kept'] == 72


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / 'whole')

    class Stop(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    stopped = Runner.from_cfg(config(tmp_path / 'stopped'))
    stopped.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = run(tmp_path / 'stopped', lambda cfg: cfg.update(resume=True))
    assert resumed.model.pruner.iteration == whole.model.pruner.iteration == 16
    assert resumed.model.pruner.images_kept == whole.model.pruner.images_kept
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0, msg=name)


def test_ratio_zero_is_the_stock_run_bit_for_bit(tmp_path):
    stock = run(tmp_path / 'stock', pruning=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pruned = run(tmp_path / 'pruned', pruning=dict(ratio=0.0))
    for name, value in weights(stock).items():
        assert torch.equal(weights(pruned)[name], value), name


def test_retention_is_recorded_by_number_where_images_have_no_path(tmp_path):
    class NoPath:
        def __call__(self, cfg):
            cfg.default_hooks.retention = dict(type='mmpfb.RetentionRecordHook')
            cfg.train_dataloader.dataset.type = 'NamelessObjects'

    from mmengine.registry import DATASETS

    from .tiny_classification import TinyObjects

    @DATASETS.register_module(force=True)
    class NamelessObjects(TinyObjects):
        def prepare_data(self, idx):
            data = super().prepare_data(idx)
            del data['data_samples'].img_path
            return data

    run(tmp_path, NoPath())
    record = json.loads((tmp_path / 'retention.json').read_text())
    assert set(record) == {str(index) for index in range(24)}
    assert sum(entry['kept'] for entry in record.values()) == 24


def test_stock_timm_classifier_is_told_the_way_out(tmp_path):
    cfg = config(tmp_path)
    cfg.model = dict(type='TimmClassifier', model_name='resnet10t', num_classes=NUM_CLASSES)
    with pytest.raises(TypeError, match='got TimmClassifier; .*mmpfb.PFBTimmClassifier'):
        Runner.from_cfg(cfg).train()


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu(tmp_path):
    def mixed(cfg):
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'

    runner = run(tmp_path, mixed)
    assert summary(tmp_path)['images_kept'] == 72
    assert runner.model.pruner.selector.state_dict()['centroids'].dtype is torch.float32
