"""For every kind of head: the loss of an image is that of a batch of one, weights weigh it."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from torch import nn

from mmpfb.core.image_losses import recording_image_losses
from mmpfb.errors import ImageLossError
from mmpfb.models.loss_modules import loss_modules

from . import architectures
from .classifiers import NUM_CLASSES, RESNET_CIFAR, classifier
from .helpers import batch, build, freeze_batch_statistics, total

CROSS_ENTROPY = {'type': 'CrossEntropyLoss', 'loss_weight': 1.0}


def segmentor(**extra):
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': {'type': 'SegDataPreProcessor'},
        'backbone': architectures.resnet(),
        'decode_head': architectures.fcn(128, 3),
        'test_cfg': {'mode': 'whole'},
        **extra,
    }


def fcn(**extra):
    return {**architectures.fcn(128, 3), **extra}


TWO_LOSSES = [
    {**CROSS_ENTROPY, 'loss_name': 'loss_ce', 'loss_weight': 0.7},
    {'type': 'DiceLoss', 'loss_name': 'loss_dice', 'loss_weight': 3.0, 'use_sigmoid': False},
]
# name: (model, number of loss modules, whether the batch loss is the mean over its images)
SEGMENTORS = {
    'fcn': (segmentor(), 1, True),
    'two_losses': (segmentor(decode_head=fcn(loss_decode=TWO_LOSSES)), 2, True),
    'ohem': (
        segmentor(decode_head=fcn(sampler={'type': 'OHEMPixelSampler', 'min_kept': 50})), 1, True
    ),
    'sigmoid': (
        segmentor(decode_head=fcn(loss_decode={**CROSS_ENTROPY, 'use_sigmoid': True})), 1, True
    ),
    'auxiliary': (segmentor(auxiliary_head=architectures.fcn(64, 2)), 2, True),
    'auxiliaries': (
        segmentor(auxiliary_head=[architectures.fcn(64, 2), architectures.fcn(32, 1)]), 3, True
    ),
    'cascade': (
        segmentor(
            type='CascadeEncoderDecoder',
            num_stages=2,
            decode_head=[
                architectures.fcn(128, 3),
                architectures.head('OCRHead', 128, 3, ocr_channels=8),
            ],
        ),
        2,
        True,
    ),
}


def linear(loss):
    head = {'type': 'LinearClsHead', 'num_classes': NUM_CLASSES, 'loss': loss}
    return classifier(RESNET_CIFAR, 64, head=head)


CLASSIFIERS = {
    'cross_entropy': linear(CROSS_ENTROPY),
    'smooth': linear({'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1, 'loss_weight': 0.5}),
    'soft': linear({**CROSS_ENTROPY, 'use_soft': True}),
    'multi_label': classifier(
        RESNET_CIFAR,
        64,
        head={
            'type': 'MultiLabelLinearClsHead',
            'num_classes': NUM_CLASSES,
            'loss': {**CROSS_ENTROPY, 'use_sigmoid': True},
        },
    ),
}


def check(model, images, samples, num_modules, is_mean=True):
    size = len(images)
    modules = loss_modules(model)
    assert len(modules) == num_modules
    freeze_batch_statistics(model.train())
    with recording_image_losses(modules, size) as recorded:
        whole = total(model.loss(images, samples))
    torch.testing.assert_close(recorded.objective, whole.detach().float())
    alone = torch.stack(
        [total(model.loss(images[i : i + 1], samples[i : i + 1])) for i in range(size)]
    ).detach()
    torch.testing.assert_close(recorded.per_image, alone, rtol=1e-4, atol=1e-5)
    assert len(set(alone.tolist())) == size
    if is_mean:
        torch.testing.assert_close(recorded.per_image.mean(), whole.detach(), rtol=1e-4, atol=1e-5)
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0][:size])
    with recording_image_losses(modules, size, weights) as weighted:
        objective = total(model.loss(images, samples))
    torch.testing.assert_close(
        objective.detach(), (weights * alone).mean(), rtol=1e-4, atol=1e-5
    )
    assert objective.requires_grad
    torch.testing.assert_close(weighted.per_image, recorded.per_image)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors(name):
    config, num_modules, is_mean = SEGMENTORS[name]
    model = build(copy.deepcopy(config))
    images, samples = batch()
    for index, sample in enumerate(samples):
        # As many ignored pixels in every image, elsewhere in each.
        sample.gt_sem_seg.data[:, 8 * index : 8 * index + 8] = 255
    if name == 'ohem':
        return check_hard_pixels(model, images, samples)
    check(model, images, samples, num_modules, is_mean)


def check_hard_pixels(model, images, samples):
    """The head chooses pixels among the whole batch, so an image alone has others.

    What the loss of an image means: the mean over its pixels, with the weights of the batch.
    """
    freeze_batch_statistics(model.train())
    modules = loss_modules(model)
    with recording_image_losses(modules, 4) as recorded:
        whole = total(model.loss(images, samples))
    torch.testing.assert_close(recorded.per_image.mean(), whole.detach(), rtol=1e-4, atol=1e-5)
    with recording_image_losses(modules, 4, torch.tensor([0.0, 0.0, 4.0, 0.0])):
        third = total(model.loss(images, samples))
    torch.testing.assert_close(third.detach(), recorded.per_image[2])


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_classifiers(name):
    model = build(copy.deepcopy(CLASSIFIERS[name]))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    samples = []
    for index in range(4):
        sample = DataSample()
        if name == 'soft':
            sample.set_gt_score(torch.rand(NUM_CLASSES, generator=generator).softmax(0))
        elif name == 'multi_label':
            sample.set_gt_label([index, index + 2])
        else:
            sample.set_gt_label(index)
        samples.append(sample)
    check(model, images, samples, 1)


def test_parts_of_a_loss_are_not_listed():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss_part = nn.CrossEntropyLoss()

    head = nn.Module()
    head.loss_decode = nn.ModuleList([Loss(), nn.MSELoss()])
    model = nn.Module()
    model.decode_head, model.auxiliary_head = head, nn.ModuleList([head])
    assert loss_modules(model) == list(head.loss_decode)


def test_a_model_without_loss_modules_is_refused():
    with pytest.raises(ImageLossError, match='Expected Linear to hold its loss functions'):
        loss_modules(nn.Linear(2, 2))
