"""Building small models, the input of segmentors, and their pruned counterparts."""

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from .architectures import NUM_CLASSES

PRUNED_TYPES = {
    'EncoderDecoder': 'mmpfb.PFBEncoderDecoder',
    'CascadeEncoderDecoder': 'mmpfb.PFBCascadeEncoderDecoder',
    'ImageClassifier': 'mmpfb.PFBImageClassifier',
    'TimmClassifier': 'mmpfb.PFBTimmClassifier',
    'HuggingFaceClassifier': 'mmpfb.PFBHuggingFaceClassifier',
}


def build(config):
    init_default_scope('mmpretrain' if config['type'].endswith('Classifier') else 'mmseg')
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(copy.deepcopy(config)))


def pruned(config, **pruning):
    pruning = {'selector': {'type': 'Uniform'}, 'ratio': 0.5, **pruning}
    return {**config, 'type': PRUNED_TYPES[config['type']], 'pruning': pruning}


def batch(size=4, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (size, 1, side, side), generator=generator)
    shapes = ('img_shape', 'ori_shape', 'pad_shape')
    meta = {'img_path': 'image.png', **{name: (side, side) for name in shapes}}
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta) for label in labels
    ]
    return images, samples


def freeze_batch_statistics(model):
    """Make the outcome of one image independent of its neighbours in the batch."""
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout, nn.Dropout2d)):
            module.eval()
    return model


def total(losses):
    values = []
    for name, value in losses.items():
        if 'loss' in name:
            values += value if isinstance(value, (list, tuple)) else [value]
    return sum(value.mean() for value in values)


def pair(config, **pruning):
    """Return a pruned model and the stock model with the same weights, in training.

    Their batch normalisation is frozen: with ``mode='reuse'`` the layers before the cut see all
    images.
    """
    model, stock = build(pruned(config, **pruning)), build(config)
    stock.load_state_dict(model.state_dict(), strict=True)
    return freeze_batch_statistics(model.train()), freeze_batch_statistics(stock.train())


def assert_equal_steps(model, stock, images, samples):
    """Compare loss and gradients with the stock model on the retained images; return those."""
    got = model.loss(images, samples)
    kept = model.pruner.last_kept
    assert kept is not None
    assert len(kept) == len(images) // 2
    expected = stock.loss(images[kept], [samples[index] for index in kept])
    assert got.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-5, msg=key)
    total(got).backward()
    total(expected).backward()
    for (key, left), right in zip(model.named_parameters(), stock.parameters(), strict=True):
        if right.grad is None:
            assert left.grad is None, key
            continue
        scale = right.grad.abs().max().item()
        torch.testing.assert_close(
            left.grad, right.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=key
        )
    return kept
