"""Every config of a segmentor is what its name says, and trains one step."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from .leaves import CONFIGS, PRUNED, SEGMENTORS, identify

NAME = re.compile(
    r'(?P<model>[a-z0-9]+_[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)'
    r'(?:-(?P<selector>pfb|uniform)(?P<ratio>0\.\d+)(?:-rescore[01]\.\d+)?)?'
    r'-(?P<schedule>\d+k?)_(?P<dataset>[a-z0-9-]+?)-(?P<height>\d+)x(?P<width>\d+)'
)
BATCH_SIZE = 4
IMAGE_SIZE = 32


def make_batch(num_classes: int, batch_size: int) -> dict:
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(batch_size):
        labels = generator.integers(0, num_classes, (1, IMAGE_SIZE, IMAGE_SIZE))
        metainfo = dict.fromkeys(
            ('img_shape', 'ori_shape', 'pad_shape'), (IMAGE_SIZE, IMAGE_SIZE)
        )
        sample = SegDataSample(metainfo=metainfo)
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        samples.append(sample)
    images = generator.integers(0, 256, (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)


@pytest.mark.parametrize('path', SEGMENTORS, ids=identify)
def test_name_says_what_is_inside(path: Path):
    config = Config.fromfile(path)
    name = NAME.fullmatch(path.stem)
    max_iters = int(name['schedule'].replace('k', '000'))

    assert config.train_dataloader.batch_size == int(name['batch'])
    assert config.train_cfg.max_iters == max_iters
    assert config.param_scheduler[-1].end == max_iters
    assert max_iters % config.train_cfg.val_interval == 0
    # The model of the last validation is on disk.
    assert max_iters % config.default_hooks.checkpoint.interval == 0
    size = (int(name['height']), int(name['width']))
    assert config.model.data_preprocessor.size == size
    assert config.train_pipeline[3].crop_size == size
    num_classes = {'cityscapes': 19, 'voc12aug': 21}.get(name['dataset'], 11)
    assert config.model.decode_head.num_classes == num_classes
    assert config.model.auxiliary_head.num_classes == num_classes


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=[pytest.mark.slow] if '_r50-' in path.stem else [])
        for path in SEGMENTORS
    ],
    ids=identify,
)
def test_config_trains_one_step(path: Path):
    config = Config.fromfile(path)
    torch.manual_seed(0)
    model_config = config.model
    # No download, and no padding of the small images to the size of the crop.
    model_config.pretrained = None
    model_config.data_preprocessor.size = (IMAGE_SIZE, IMAGE_SIZE)
    pruned = path in PRUNED
    if pruned and model_config.pruning.selector.type == 'PFB':
        # The first batch fills the estimator, the second is pruned.
        model_config.pruning.selector.num_centroids = BATCH_SIZE
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = revert_sync_batchnorm(MODELS.build(model_config))
        model.train()
        optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    batch_sizes = []
    model.decode_head.conv_seg.register_forward_pre_hook(
        lambda module, inputs: batch_sizes.append(len(inputs[0]))
    )
    before = model.decode_head.conv_seg.weight.clone()
    batch = make_batch(model_config.decode_head.num_classes, BATCH_SIZE)
    for _ in range(2 if pruned else 1):
        log = model.train_step(batch, optim_wrapper)

    assert torch.isfinite(log['loss'])
    assert not torch.equal(before, model.decode_head.conv_seg.weight)
    if pruned:
        assert batch_sizes[-1] < BATCH_SIZE
    else:
        assert batch_sizes == [BATCH_SIZE]


@pytest.mark.parametrize(
    'name',
    [
        'deeplabv3_r18-d8-w32_1xb8-1k_camvid-160x160',
        'deeplabv3_r50-d8_1xb8-20k_camvid-360x480',
    ],
)
def test_camvid_pipelines_read_images(name: str, tiny_camvid: Path):
    config = Config.fromfile(CONFIGS / 'camvid' / f'{name}.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        for loader, count in ((config.train_dataloader, 8), (config.test_dataloader, 2)):
            loader.dataset.data_root = str(tiny_camvid)
            dataset = DATASETS.build(loader.dataset)
            assert len(dataset) == count
            sample = dataset[0]
            labels = sample['data_samples'].gt_sem_seg.data
            assert set(labels.unique().tolist()) <= {0, 3, 255}
        # The annotation of the last pipeline, that of the test, keeps the original size.
        assert labels.shape == (1, 64, 64)


@pytest.mark.parametrize('path', SEGMENTORS, ids=identify)
def test_test_time_augmentation_has_scales_and_flips(path: Path):
    config = Config.fromfile(path)
    scales, flips, _, _ = config.tta_pipeline[-1].transforms

    assert config.tta_model.type == 'SegTTAModel'
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    if path.parent.name in ('cityscapes', 'pascal_voc12'):
        assert [scale.scale_factor for scale in scales] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
