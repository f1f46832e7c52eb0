"""Selectors that need losses or gradients of all images: HighLoss and DivBS."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmpfb.errors import ImageLossError
from mmpfb.models.measures import LastLayerGradients, image_losses
from mmpfb.pruner import Phase

from .architectures import SEGMENTORS, SEGMENTORS_FOR_RESCORE
from .classifiers import CLASSIFIERS
from .helpers import batch, build, freeze_batch_statistics, pruned, total
from .test_classifiers import batch as class_batch
from .test_rescore import assert_bit_equal_step, with_edges

SELECTORS = ('HighLoss', 'DivBS')
SOME_SEGMENTORS = ('fcn-resnet', 'fcn-resnet-two-aux', 'upernet-swin', 'segformer-mit',
                   'ocrnet-hrnet')


def measured(config, selector='HighLoss', **pruning):
    """Return a model in training that prunes, and the stock model with its weights."""
    model = build(pruned(config, selector={'type': selector}, **pruning)).train()
    return model, build(config).train()


@pytest.mark.parametrize('selector', SELECTORS)
@pytest.mark.parametrize('name', SOME_SEGMENTORS)
def test_the_step_of_a_segmentor(name, selector):
    model, stock = measured(SEGMENTORS[name][0], selector)
    assert (model.pruning_mode, model.pruning_location) == ('rescore', 'decode_head')
    assert_bit_equal_step(model, stock, *batch())


@pytest.mark.parametrize('selector', SELECTORS)
def test_the_step_of_a_segmentor_that_cannot_be_cut(selector):
    model, stock = measured(SEGMENTORS_FOR_RESCORE['bisenetv1'][0], selector, score_scale=0.5,
                            mode='rescore')
    assert_bit_equal_step(model, stock, *with_edges(*batch()))


@pytest.mark.parametrize('selector', SELECTORS)
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_step_of_a_classifier(name, selector):
    model, stock = measured(CLASSIFIERS[name][0], selector)
    assert_bit_equal_step(model, stock, *class_batch())


def evaluated_loss(stock, images, samples):
    """Return the objective of images on their own, in evaluation mode."""
    with torch.no_grad():
        return float(total(stock.eval().loss(images, samples)))


@pytest.mark.parametrize('name', SOME_SEGMENTORS)
def test_losses_of_images_are_those_of_batches_of_one(name):
    _, stock = measured(SEGMENTORS[name][0])
    images, samples = batch()
    stock.eval()
    with torch.no_grad():
        losses = image_losses(stock, lambda: stock.loss(images, samples), len(images))
    expected = [evaluated_loss(stock, images[i : i + 1], [samples[i]]) for i in range(4)]
    torch.testing.assert_close(losses[:, 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('config', 'make', 'path'),
    [
        (SEGMENTORS['fcn-resnet'][0], batch, 'decode_head.conv_seg'),
        (next(iter(CLASSIFIERS.values()))[0], class_batch, 'head.fc'),
    ],
    ids=['segmentor', 'classifier'],
)
def test_gradient_products_are_those_of_the_weight_gradients_of_images(config, make, path):
    _, stock = measured(config)
    images, samples = make()
    stock = freeze_batch_statistics(stock.eval())
    measure = LastLayerGradients(path.partition('.')[0])
    with torch.no_grad():
        products = measure(stock, lambda: stock.loss(images, samples), len(images))
    weight = stock.get_submodule(path).weight
    gradients = []
    for index in range(len(images)):
        loss = total(stock.loss(images[index : index + 1], [samples[index]]))
        gradients.append(torch.autograd.grad(loss, weight)[0].flatten() / len(images))
    expected = torch.stack(gradients) @ torch.stack(gradients).T
    torch.testing.assert_close(products, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_the_pass_leaves_the_grad_mode_and_no_gradient_behind():
    model, _ = measured(SEGMENTORS['fcn-resnet'][0], 'DivBS')
    model.loss(*batch())
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.decode_head.modules())


def test_the_images_of_highest_loss_are_preferred():
    config = next(iter(CLASSIFIERS.values()))[0]
    model, stock = measured(config, ratio=0.75)
    stock.load_state_dict(model.state_dict())
    images, samples = class_batch()
    losses = [evaluated_loss(stock, images[i : i + 1], [samples[i]]) for i in range(len(images))]
    kept = []
    for _ in range(60):
        # The running statistics of the batch normalisation must not drift.
        model.load_state_dict(stock.state_dict())
        model.loss(images, samples)
        kept += model.pruner.last_kept
    counts = torch.bincount(torch.tensor(kept), minlength=len(images))
    assert counts.argsort().tolist() == torch.tensor(losses).argsort().tolist()


@pytest.mark.parametrize('selector', SELECTORS)
def test_only_retained_images_reach_the_training_pass(selector):
    model, _ = measured(SEGMENTORS['fcn-resnet'][0], selector)
    calls = []
    model.backbone.layer1.register_forward_hook(
        lambda module, args, output: calls.append((len(output), module.training))
    )
    model.loss(*batch())
    passes = [(4, False)] * (1 + (selector == 'DivBS'))
    assert calls == [*passes, (2, True)]
    calls.clear()
    model.loss(*batch())
    # The last layer is looked for once.
    assert calls == [(4, False), (2, True)]


@pytest.mark.parametrize('selector', SELECTORS)
def test_nothing_is_measured_before_and_after_pruning(selector):
    model, _ = measured(SEGMENTORS['fcn-resnet'][0], selector)
    calls = []
    model.backbone.layer1.register_forward_hook(lambda m, a, output: calls.append(len(output)))
    for phase in (Phase.OBSERVE, Phase.IDLE):
        model.pruner.phase = phase
        model.loss(*batch())
    assert calls == [4, 4]
    assert model.pruner.images_kept == model.pruner.images_seen == 8


@pytest.mark.parametrize('selector', SELECTORS)
def test_a_model_copies_and_pickles(selector):
    model, _ = measured(SEGMENTORS['fcn-resnet'][0], selector)
    model.loss(*batch())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.loss(*batch())
        assert len(other.pruner.last_kept) == 2


def test_what_cannot_be_had_with_it_is_said(caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('whole-pass')
    logger.addHandler(caplog.handler)
    measured(SEGMENTORS['fcn-resnet'][0], location='backbone.layer2')
    logger.removeHandler(caplog.handler)
    text = caplog.text
    assert 'the losses of all images are computed in a forward pass of the whole network' in text
    assert "whatever `mode` says; location='backbone.layer2' has no meaning there" in text


class NoLossModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)


def test_a_model_without_loss_modules_is_refused():
    with pytest.raises(ImageLossError, match='NoLossModules to hold its loss functions'):
        image_losses(NoLossModules(), lambda: None, 2)


def test_a_head_without_a_layer_is_refused():
    model = nn.Module()
    model.head = nn.ReLU()
    with pytest.raises(ImageLossError, match='head to end in a linear or convolutional layer'):
        LastLayerGradients('head')(model, lambda: None, 2)


class Toy(nn.Module):
    """A head whose last layer can be chosen, with a host's way to add up losses."""

    def __init__(self, layer):
        super().__init__()
        self.head = layer

    def loss(self, inputs):
        return {'loss': self.head(inputs).square().flatten(1).sum(1).mean()}

    def parse_losses(self, losses):
        return losses['loss'], losses


def products_of(layer, inputs):
    toy = Toy(layer)
    with torch.no_grad():
        products = LastLayerGradients('head')(toy, lambda: toy.loss(inputs), len(inputs))
    rows = [
        torch.autograd.grad(toy.loss(inputs[i : i + 1])['loss'], toy.head.weight)[0].flatten()
        for i in range(len(inputs))
    ]
    expected = torch.stack(rows) / len(inputs)
    return products, expected @ expected.T


@pytest.mark.parametrize(
    ('layer', 'shape'),
    [
        (nn.Linear(3, 5), (4, 3)),
        (nn.Linear(3, 5), (4, 6, 3)),
        (nn.Conv1d(3, 5, 1), (4, 3, 7)),
        (nn.Conv2d(3, 5, 1), (4, 3, 6, 7)),
        (nn.Conv2d(3, 5, 3, padding=1), (4, 3, 6, 7)),
        (nn.Conv2d(3, 5, 1, stride=2), (4, 3, 6, 7)),
    ],
)
def test_last_layers_of_all_kinds(layer, shape):
    products, expected = products_of(layer, torch.randn(*shape))
    torch.testing.assert_close(products, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize('enabled', [True, False])
def test_measuring_leaves_the_grad_mode_as_it_was(enabled):
    toy, inputs = Toy(nn.Linear(3, 2)), torch.randn(4, 3)
    with torch.set_grad_enabled(enabled):
        LastLayerGradients('head')(toy, lambda: toy.loss(inputs), 4)
        assert torch.is_grad_enabled() == enabled


@pytest.mark.parametrize('layer', [nn.Conv2d(4, 4, 1, groups=2), nn.Conv1d(4, 4, 3)])
def test_last_layers_that_are_refused(layer):
    shape = (2, 4, 5, 5) if isinstance(layer, nn.Conv2d) else (2, 4, 5)
    toy = Toy(layer)
    with torch.no_grad(), pytest.raises(ImageLossError, match='without groups and with a kernel'):
        LastLayerGradients('head')(toy, lambda: toy.loss(torch.randn(*shape)), 2)


def test_rows_that_are_no_images_are_refused():
    toy = Toy(nn.Linear(3, 2))
    with torch.no_grad(), pytest.raises(ImageLossError, match='row for each of 5 images'):
        LastLayerGradients('head')(toy, lambda: toy.loss(torch.randn(4, 3)), 5)


def test_the_labels_of_a_sample_are_not_touched():
    model, _ = measured(SEGMENTORS['fcn-resnet'][0])
    images, samples = batch()
    before = [sample.gt_sem_seg.data.clone() for sample in samples]
    model.loss(images, samples)
    assert len(samples) == 4
    assert all(torch.equal(a.gt_sem_seg.data, b) for a, b in zip(samples, before, strict=True))
