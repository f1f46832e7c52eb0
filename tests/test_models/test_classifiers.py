"""A pruned step of a classifier is the stock classifier's step on the retained images."""

import copy
import io

import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample, MultiTaskDataSample
from torch import nn

from mmpfb.errors import LocationError

from .classifiers import CLASSIFIERS, LINEAR, NUM_CLASSES, RESNET_CIFAR, classifier
from .helpers import assert_equal_steps, build, pair, pruned, total

SIDE = 64


def batch(size=4, label=lambda sample, index: sample.set_gt_label(index % NUM_CLASSES)):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, SIDE, SIDE, generator=generator)
    return images, [label(DataSample(), index) for index in range(size)]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_loss_and_gradients_are_those_of_the_stock_model_on_the_retained_images(name):
    config, location = CLASSIFIERS[name]
    model, stock = pair(config)
    assert model.pruning_location == location
    assert_equal_steps(model, stock, *batch())


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_score_sees_the_channels_of_the_stage(name):
    model = build(pruned(CLASSIFIERS[name][0], selector={'type': 'PFB', 'num_centroids': 4}))
    images, samples = batch()
    outputs = []
    model.get_submodule(model.pruning_location).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    # The first batch is collected whole, so that the hook above sees what the pruner saw.
    model.train().loss(images, samples)
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    axes = {'timm-swin': (1, 2)}.get(name, tuple(range(2, 4)) if output.dim() == 4 else (1,))
    expected = output.detach().mean(axes)
    centroids = model.pruner.selector.state_dict()['centroids']
    assert centroids.shape == expected.shape
    torch.testing.assert_close(
        centroids.sort(0).values, expected.sort(0).values, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('location', ['conv1', 'layer1', 'layer2', 'layer3', 'layer4'])
def test_any_stage_can_be_the_cut(location):
    config, _ = CLASSIFIERS['resnet-cifar']
    model, stock = pair(config, location=f'backbone.{location}')
    assert_equal_steps(model, stock, *batch())


def test_the_neck_can_be_the_cut():
    model, stock = pair(CLASSIFIERS['resnet-cifar'][0], location='neck')
    assert_equal_steps(model, stock, *batch())


def test_outputs_of_earlier_stages_follow_the_cut():
    backbone = {**RESNET_CIFAR, 'out_indices': (0, 1, 2, 3)}
    config = classifier(backbone, 64)
    model, stock = pair(config, location='backbone.layer2')
    seen = []
    model.neck.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert_equal_steps(model, stock, *batch())
    assert [len(output) for output in seen[-1]] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    'loss',
    [
        {'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1, 'mode': 'original',
         'num_classes': NUM_CLASSES},
        {'type': 'CrossEntropyLoss', 'use_soft': True},
    ],
    ids=['label-smoothing', 'soft-labels'],
)
def test_retained_images_keep_their_labels_under(loss):
    def label(sample, index):
        score = torch.softmax(torch.arange(NUM_CLASSES) * (index + 1.0), 0)
        sample.set_gt_label(index % NUM_CLASSES)
        return sample.set_gt_score(score) if loss['type'] == 'CrossEntropyLoss' else sample

    config = classifier(RESNET_CIFAR, 64, head={**LINEAR, 'loss': loss})
    assert_equal_steps(*pair(config), *batch(6, label))


def test_retained_images_keep_their_labels_under_several_labels_per_image():
    head = {'type': 'MultiLabelLinearClsHead', 'num_classes': NUM_CLASSES}
    config = classifier(RESNET_CIFAR, 64, head=head)
    samples = batch(6, lambda sample, index: sample.set_gt_label([index, (index + 1) % 7]))
    assert_equal_steps(*pair(config), *samples)


def test_retained_images_keep_their_labels_under_several_tasks():
    def label(_, index):
        sample = MultiTaskDataSample()
        sample.set_field(DataSample().set_gt_label(index % 3), 'colour')
        sample.set_field(DataSample().set_gt_label(index % 2), 'shape')
        return sample

    tasks = {
        'colour': {'type': 'LinearClsHead', 'num_classes': 3},
        'shape': {'type': 'LinearClsHead', 'num_classes': 2},
    }
    head = {'type': 'MultiTaskHead', 'task_heads': tasks}
    assert_equal_steps(*pair(classifier(RESNET_CIFAR, 64, head=head)), *batch(6, label))


def test_retained_images_keep_their_labels_under_a_margin_head():
    head = {'type': 'ArcFaceClsHead', 'num_classes': NUM_CLASSES}
    assert_equal_steps(*pair(classifier(RESNET_CIFAR, 64, head=head)), *batch(6))


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_labels_mixed_by_the_preprocessor_follow_their_image(augment):
    train_cfg = {'augments': [{'type': augment, 'alpha': 1.0}]}
    config = classifier(
        RESNET_CIFAR, 64, train_cfg=train_cfg,
        head={**LINEAR, 'loss': {'type': 'CrossEntropyLoss', 'use_soft': True}},
    )
    config['data_preprocessor'] = {'num_classes': NUM_CLASSES, 'mean': [0.0] * 3, 'std': [1.0] * 3}
    model, stock = pair(config)
    images, samples = batch(6)
    torch.manual_seed(3)
    data = model.data_preprocessor({'inputs': images, 'data_samples': samples}, training=True)
    assert not torch.equal(data['inputs'], images)
    scores = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert ((scores > 0) & (scores < 1)).any()
    kept = assert_equal_steps(model, stock, data['inputs'], data['data_samples'])
    # The labels of other images give another loss, so that the comparison above means something.
    others = [data['data_samples'][index] for index in range(6) if index not in kept]
    wrong = stock.loss(data['inputs'][kept], others)
    right = stock.loss(data['inputs'][kept], [data['data_samples'][index] for index in kept])
    assert not torch.allclose(wrong['loss'], right['loss'], rtol=1e-3)


@pytest.mark.parametrize('training', [False, True])
def test_predict_and_tensor_mode_are_the_stock_models_bit_for_bit(training):
    model, stock = pair(CLASSIFIERS['swin'][0])
    model.train(training)
    stock.train(training)
    images, samples = batch(3)
    assert torch.equal(model(images, mode='tensor'), stock(images, mode='tensor'))
    for left, right in zip(
        model.predict(images, copy.deepcopy(samples)),
        stock.predict(images, copy.deepcopy(samples)),
        strict=True,
    ):
        assert isinstance(left, BaseDataElement)
        assert torch.equal(left.pred_score, right.pred_score)
    assert model.pruner.images_seen == 0


def test_checkpoint_of_the_pruned_model_loads_in_the_stock_model():
    config, _ = CLASSIFIERS['timm-resnet']
    model = build(pruned(config))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    result = build(config).load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys


@pytest.mark.parametrize('precision', [torch.float64, torch.bfloat16], ids=str)
def test_other_precisions(precision):
    model, _ = pair(CLASSIFIERS['resnet-cifar'][0], selector={'type': 'PFB', 'num_centroids': 4})
    images, samples = batch(4)
    autocast = precision is torch.bfloat16
    if not autocast:
        model, images = model.to(precision), images.to(precision)
    for _ in range(2):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            loss = total(model.loss(images, samples))
        loss.backward()
    assert len(model.pruner.last_kept) == 2
    assert torch.isfinite(loss)
    centroids = model.pruner.selector.state_dict()['centroids']
    assert centroids.dtype is (torch.float32 if autocast else torch.float64)


def test_a_head_with_batch_normalisation_keeps_two_images():
    head = {
        **LINEAR, 'type': 'StackedLinearClsHead', 'mid_channels': [16],
        'norm_cfg': {'type': 'BN1d'},
    }
    model = build(pruned(classifier(RESNET_CIFAR, 64, head=head), ratio=0.9)).train()
    assert model.pruner.min_keep == 2
    assert torch.isfinite(total(model.loss(*batch(4))))
    assert len(model.pruner.last_kept) == 2
    assert build(pruned(CLASSIFIERS['resnet-cifar'][0])).pruner.min_keep == 1


def test_a_stage_with_few_channels_is_said_once(capsys):
    config, _ = CLASSIFIERS['resnet-cifar']
    model = build(pruned(config, selector={'type': 'PFB', 'num_centroids': 4})).train()
    for _ in range(2):
        model.loss(*batch())
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert text.count('has 8 channels, fewer than dim=128: densities are estimated in 8') == 1
    build(pruned(config, selector={'type': 'PFB', 'dim': 8}))
    printed = capsys.readouterr()
    assert 'channels' not in printed.out + printed.err


@pytest.mark.parametrize('kind', ['TimmClassifier', 'HuggingFaceClassifier'])
def test_arguments_of_other_classifiers_are_refused_with_their_pruned_type(kind):
    config = {'type': 'mmpfb.PFBImageClassifier', 'model_name': 'resnet18', 'pruning': {}}
    with pytest.raises(TypeError, match=f'got `model_name`; for .*{kind}.*mmpfb.PFB{kind}'):
        build(config)


def test_a_backbone_without_known_stages_says_where_it_can_be_cut():
    config = classifier({'type': 'VGG', 'depth': 11}, 512)
    with pytest.raises(LocationError, match='finds no stages in VGG.*backbone.features.5,'):
        build(pruned(config))
    model, stock = pair(config, location='backbone.features.5')
    assert_equal_steps(model, stock, *batch())


def test_a_network_for_small_images_alone_is_probed_at_its_size():
    mixer = {'type': 'MlpMixer', 'img_size': 32, 'patch_size': 8, 'arch': {
        'embed_dims': 16, 'num_layers': 4, 'tokens_mlp_dims': 8, 'channels_mlp_dims': 16}}
    model = build(pruned(classifier(mixer, 16, neck={'type': 'GlobalAveragePooling', 'dim': 1})))
    assert model.pruning_location == 'backbone.layers.0'


def test_a_neck_that_does_not_fit_is_named_with_its_error():
    config = classifier(CLASSIFIERS['vit'][0]['backbone'], 24)
    with pytest.raises(LocationError, match='VisionTransformer could not be computed.*dimension'):
        build(pruned(config))


class Windows(nn.Module):
    """Splits every image in two windows: rows that are no images."""

    def forward(self, images):
        return images.reshape(len(images) * 2, -1, *images.shape[2:])


def test_rows_that_are_no_images_are_never_matched_with_labels():
    model = build(pruned(CLASSIFIERS['resnet-cifar'][0])).train()
    cut = model.get_submodule(model.pruning_location)
    # Built with a stage that keeps one row per image; replaced by one that does not.
    cut.register_forward_hook(lambda module, args, output: Windows()(output), prepend=True)
    with pytest.raises(LocationError, match='a row for each of 4 images, but got .*8, 4'):
        model.loss(*batch(4))
