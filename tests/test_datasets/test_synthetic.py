import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.structures import SegDataSample
from torch.optim import SGD

from mmpfb.datasets.synthetic import image_size, synthetic_batch

RESNET = dict(depth=18, base_channels=8, stem_channels=8)


def classifier_config(*pipeline, num_classes=7):
    return Config(
        dict(
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='ResNet_CIFAR', **RESNET),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=64),
            ),
            data_preprocessor=dict(num_classes=num_classes, mean=[127.0] * 3, std=[60.0] * 3),
            train_dataloader=dict(dataset=dict(pipeline=[*pipeline, dict(type='PackInputs')])),
        )
    )


def fcn_head(num_classes):
    return dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, concat_input=False,
                num_classes=num_classes)


def segmentor_config(size, *, num_classes=5, cascade=False):
    head = fcn_head(num_classes)
    return Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(
                    type='SegDataPreProcessor', size=size, mean=[127.0] * 3, std=[60.0] * 3
                ),
                backbone=dict(type='ResNetV1c', **RESNET, norm_cfg=dict(type='BN')),
                # Only the labels of the last head of a cascade are those of the images.
                decode_head=[{**head, 'num_classes': 2}, head] if cascade else head,
                test_cfg=dict(mode='whole'),
            ),
            train_dataloader=dict(
                dataset=dict(pipeline=[dict(type='RandomCrop', crop_size=(8, 8))])
            ),
        )
    )


def crop(size):
    return dict(type='RandomCrop', crop_size=size)


def resize(size):
    return dict(type='Resize', scale=size)


@pytest.mark.parametrize(
    ('pipeline', 'expected'),
    [
        ([crop(24)], (24, 24)),
        ([crop((24, 40))], (24, 40)),
        ([crop([24, 40])], (24, 40)),
        ([dict(type='RandomResizedCrop', scale=(24, 40))], (24, 40)),
        ([resize(28)], (28, 28)),
        # The last one counts, whatever lies around it.
        ([crop(40), resize(28), dict(type='RandomFlip', prob=0.5)], (28, 28)),
        ([resize(40), crop(24)], (24, 24)),
        ([resize((40, 24))], (24, 40)),
    ],
)
def test_size_is_what_the_pipeline_makes_of_an_image(pipeline, expected):
    results = dict(img=torch.zeros(64, 72, 3, dtype=torch.uint8).numpy(), img_shape=(64, 72))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for transform in pipeline:
            results = TRANSFORMS.build(transform)(results)
    assert results['img'].shape[:2] == expected

    config = classifier_config(*pipeline)
    assert image_size(config) == expected
    assert synthetic_batch(config, 1)['inputs'][0].shape == (3, *expected)


@pytest.mark.parametrize(('size', 'expected'), [(24, (24, 24)), ((24, 40), (24, 40))])
def test_size_of_the_data_preprocessor_goes_before_the_pipeline(size, expected):
    config = segmentor_config(size)
    assert image_size(config) == expected
    batch = synthetic_batch(config, 2)
    assert [image.shape for image in batch['inputs']] == [(3, *expected)] * 2
    for sample in batch['data_samples']:
        assert sample.gt_sem_seg.data.shape == (1, *expected)
        assert sample.img_shape == expected


def test_a_config_without_a_size_is_refused():
    config = classifier_config(dict(type='RandomFlip', prob=0.5))
    for function in (image_size, lambda config: synthetic_batch(config, 2)):
        with pytest.raises(ValueError, match='the size of its images .* but found neither'):
            function(config)


def test_images_and_labels_cover_their_range():
    classes = synthetic_batch(classifier_config(crop(8), num_classes=7), 64)
    assert all(isinstance(sample, DataSample) for sample in classes['data_samples'])
    assert {int(sample.gt_label) for sample in classes['data_samples']} == set(range(7))

    for cascade in (False, True):
        maps = synthetic_batch(segmentor_config(16, num_classes=5, cascade=cascade), 3)
        assert all(isinstance(sample, SegDataSample) for sample in maps['data_samples'])
        for sample in maps['data_samples']:
            assert set(sample.gt_sem_seg.data.unique().tolist()) == set(range(5))

    for batch in (classes, maps):
        images = torch.stack(batch['inputs'])
        assert images.dtype == torch.uint8
        assert images.min() <= 2 and images.max() >= 253
        assert len(batch['inputs']) == len(batch['data_samples'])


@pytest.mark.parametrize('config', [classifier_config(crop(8)), segmentor_config(8)])
def test_equal_seeds_give_equal_batches(config):
    def content(**seed):
        batch = synthetic_batch(config, 6, **seed)
        labels = [
            sample.gt_label if 'gt_label' in sample else sample.gt_sem_seg.data
            for sample in batch['data_samples']
        ]
        return torch.stack(batch['inputs']), torch.stack(labels)

    state = torch.get_rng_state()
    first, again, other = content(), content(seed=0), content(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for index in range(2):
        assert torch.equal(first[index], again[index])
        assert not torch.equal(first[index], other[index])


@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_a_stock_model_trains_on_it(kind):
    if kind == 'classifier':
        config, registry, scope = classifier_config(crop(16)), CLASSIFIERS, 'mmpretrain'
        config.model.data_preprocessor = config.data_preprocessor
    else:
        config, registry, scope = segmentor_config((32, 32)), SEGMENTORS, 'mmseg'
    with DefaultScope.overwrite_default_scope(scope):
        torch.manual_seed(0)
        model = registry.build(config.model).train()
        batch = model.data_preprocessor(synthetic_batch(config, 4), training=True)
        losses = model(**batch, mode='loss')
    before = [parameter.clone() for parameter in model.parameters()]
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    SGD(model.parameters(), lr=0.1).step()

    assert torch.isfinite(total) and total > 0
    changed = [
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    ]
    assert sum(changed) > len(changed) / 2
