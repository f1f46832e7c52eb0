"""Every config of a classifier is what its name says, and trains one step."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmpfb.datasets.synthetic import image_size, synthetic_batch

from .leaves import CLASSIFIERS, PRUNED, identify

NAME = re.compile(
    r'(?P<model>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)(?:-(?:pfb|uniform)0\.\d+)?'
    r'-(?P<length>\d+)(?P<unit>e?)_(?P<dataset>[a-z0-9-]+)'
)
NUM_CLASSES = {
    'cifar10': 10, 'cifar10-10k': 10, 'cifar100': 100, 'in1k': 1000, 'street-conditions': 9,
}
IMAGE_SIZE = {'in1k': 224, 'street-conditions': 72}
BATCH_SIZE = 4


@pytest.mark.parametrize('path', CLASSIFIERS, ids=identify)
def test_name_says_what_is_inside(path: Path):
    config = Config.fromfile(path)
    name = NAME.fullmatch(path.stem)
    length = int(name['length'])
    assert config.train_dataloader.batch_size == int(name['batch'])
    unit = 'max_epochs' if name['unit'] else 'max_iters'
    assert config.train_cfg[unit] == length
    schedulers = config.param_scheduler
    last = schedulers[-1] if isinstance(schedulers, list) else schedulers
    assert last.get('end', last.get('total_steps')) == length
    assert last.by_epoch == bool(name['unit'])
    assert length % config.train_cfg.val_interval == 0
    # The model of the last validation is on disk.
    assert length % config.default_hooks.checkpoint.interval == 0
    assert image_size(config) == (IMAGE_SIZE.get(name['dataset'], 32),) * 2
    num_classes = NUM_CLASSES[name['dataset']]
    assert config.model.head.num_classes == config.data_preprocessor.num_classes == num_classes
    if name['dataset'] == 'in1k':
        assert int(name['gpus']) * int(name['batch']) == config.auto_scale_lr.base_batch_size


PAPER = {
    # location, epochs at which pruning starts and stops, bound of the random term (Table 9)
    'resnet18_1xb128': ('auto', 5, 180, None),
    'resnet50_4xb256': ('backbone.layer2', 15, 80, 0.001),
    'swin-tiny_4xb256': ('backbone.stages.0', 50, 267, 0.001),
}


@pytest.mark.parametrize(
    'path',
    [path for path in CLASSIFIERS if path in PRUNED and path.stem.split('-pfb')[0] in PAPER],
    ids=identify,
)
def test_the_papers_experiments_have_its_settings(path: Path):
    config = Config.fromfile(path)
    location, begin, end, bound = PAPER[path.stem.split('-pfb')[0]]
    assert config.model.pruning.location == location
    assert config.model.pruning.selector.get('random_bound') == bound
    hook = config.default_hooks.pruning
    assert (hook.begin, hook.end, hook.by) == (begin, end, 'epoch')
    assert hook.end < config.train_cfg.max_epochs


def build(config: Config):
    # As the runner does.
    config.model.data_preprocessor = config.data_preprocessor
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model).train()
        return model, build_optim_wrapper(model, config.optim_wrapper)


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=[pytest.mark.slow] if 'in1k' in path.stem else [])
        for path in CLASSIFIERS
    ],
    ids=identify,
)
def test_config_trains_one_step(path: Path):
    config = Config.fromfile(path)
    torch.manual_seed(0)
    pruned = path in PRUNED
    if pruned and config.model.pruning.selector.type == 'PFB':
        # The first batch fills the estimator, the second is pruned.
        config.model.pruning.selector.num_centroids = BATCH_SIZE
    model, optim_wrapper = build(config)
    batch_sizes = []
    model.head.fc.register_forward_pre_hook(
        lambda module, inputs: batch_sizes.append(len(inputs[0]))
    )
    if 'resnet50' in path.stem:
        # A smaller image than the config's, which a convolutional network takes as well.
        config.train_dataloader.dataset.pipeline[1].scale = 64
    batch = synthetic_batch(config, BATCH_SIZE)
    before = model.head.fc.weight.clone()
    for _ in range(2 if pruned else 1):
        log = model.train_step(batch, optim_wrapper)

    assert torch.isfinite(log['loss'])
    assert not torch.equal(before, model.head.fc.weight)
    if pruned:
        assert batch_sizes[-1] < BATCH_SIZE
    else:
        assert batch_sizes == [BATCH_SIZE]


def test_small_resnet_has_35_million_multiply_adds():
    from torch.utils.flop_counter import FlopCounterMode

    path = next(path for path in CLASSIFIERS if '-w16_1xb128-20e' in path.stem)
    model, _ = build(Config.fromfile(path))
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32))
    assert 34e6 < counter.get_total_flops() / 2 < 37e6


@pytest.mark.slow
def test_lars_spares_normalisation_and_bias():
    path = next(path for path in CLASSIFIERS if path.stem.startswith('resnet50_4xb256-90e'))
    model, wrapper = build(Config.fromfile(path))
    spared = {
        id(parameter)
        for group in wrapper.optimizer.param_groups
        if group.get('lars_exclude') and group['weight_decay'] == 0
        for parameter in group['params']
    }
    for name, parameter in model.named_parameters():
        assert (id(parameter) in spared) == (parameter.dim() == 1), name
