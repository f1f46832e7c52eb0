"""What is counted without data is what a training step with data computes."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS as SEGMENTATION_MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmpfb.analysis.flops import FlopCounter
from mmpfb.analysis.saving import saving_bound
from mmpfb.core.selection import Selection
from mmpfb.errors import LocationError
from mmpfb.models.counting import count_cost
from mmpfb.pruner import Phase
from mmpfb.selectors import Selector

from .architectures import SEGMENTORS, SEGMENTORS_FOR_RESCORE, fcn, resnet, segmentor
from .classifiers import CLASSIFIERS
from .helpers import batch, build, pruned, total
from .test_classifiers import batch as class_batch

MODELS = {**SEGMENTORS, **SEGMENTORS_FOR_RESCORE, **CLASSIFIERS}
SIZE = (64, 64)
PFB = {'type': 'PFB', 'num_centroids': 4}


class FirstImages(Selector):
    """Looks at features without a matrix product of its own."""

    def select(self, features, num_retained, generator):
        return Selection(torch.arange(num_retained), None, {})


def count(model, size=SIZE, **pruning):
    init_default_scope('mmpretrain' if model['type'].endswith('Classifier') else 'mmseg')
    return count_cost(Config({'model': copy.deepcopy(model)}), size, **pruning)


def count_real_step(config, phase, counter, **pruning):
    """Count a training step with data and losses, on the CPU."""
    model = build(pruned(config, selector=PFB, **pruning)).train()
    model.pruner.selector = FirstImages()
    model.pruner.phase = phase
    classifies = config['type'].endswith('Classifier')
    images, samples = class_batch() if classifies else batch()
    with counter:
        total(model.loss(images, samples)).backward()
    assert model.pruner.images_kept == (2 if phase is Phase.PRUNE else 4)
    return len(images)


@pytest.mark.parametrize(
    ('name', 'pruning'),
    [
        ('fcn-resnet-two-aux', {'mode': 'reuse'}),
        ('fcn-resnet-two-aux', {'mode': 'rescore', 'score_scale': 0.5}),
        # Its first head runs twice.
        ('ocrnet-resnet', {'mode': 'reuse'}),
        ('upernet-resnet', {'mode': 'rescore'}),
        ('resnet-cifar', {'mode': 'reuse'}),
        ('resnet-cifar', {'mode': 'rescore', 'score_scale': 0.5}),
    ],
)
def test_a_counted_step_is_the_real_one(name, pruning):
    config, _ = MODELS[name]
    cost = count(config, ratio=0.5, **pruning)
    for phase, flops in ((Phase.PRUNE, cost.pruned), (Phase.IDLE, cost.full)):
        counter = FlopCounterMode(display=False)
        images = count_real_step(config, phase, counter, **pruning)
        assert flops.total * images == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ('name', 'location'),
    [('deeplabv3plus-resnet', 'auto'), ('mscan', 'auto'), ('upernet-swin', 'backbone.stages.1')],
)
def test_a_counted_step_with_groups_or_a_cut_inside_of_a_stage(name, location):
    config, _ = MODELS[name]
    pruning = {'mode': 'rescore', 'score_scale': 0.5, 'location': location}
    cost = count(config, ratio=0.5, **pruning)
    counter = FlopCounter()
    images = count_real_step(config, Phase.PRUNE, counter, **pruning)
    assert cost.pruned.total * images == counter.total


@pytest.mark.parametrize('name', ['deeplabv3-resnet', 'resnet-cifar'])
@pytest.mark.parametrize(('mode', 'scale'), [('reuse', 1.0), ('rescore', 1.0), ('rescore', 0.5)])
def test_the_saving_is_near_its_bound(name, mode, scale):
    cost = count(MODELS[name][0], ratio=0.5, mode=mode, score_scale=scale)
    bound = saving_bound(0.5, cost.share_before_cut, mode, scale)
    assert cost.saved == pytest.approx(bound, abs=0.005)
    (place,) = [place for place in cost.places if place.location == cost.location]
    assert getattr(place, mode) == pytest.approx(bound)
    assert place.share == cost.share_before_cut


def test_a_stock_model_has_the_cost_of_its_counterpart():
    stock, _ = MODELS['fcn-resnet']
    counterpart = pruned(stock, selector=PFB, ratio=0.7, mode='rescore', score_scale=0.5)
    cost = count(stock, ratio=0.7, mode='rescore', score_scale=0.5)
    assert count(counterpart) == cost
    assert (cost.model, cost.location) == ('PFBEncoderDecoder', 'backbone.layer3')
    assert (cost.mode, cost.ratio, cost.score_scale) == ('rescore', 0.7, 0.5)
    assert cost.pruned.forward == pytest.approx(0.3 * cost.full.forward)


def test_options_replace_those_of_the_configuration():
    config = pruned(MODELS['fcn-resnet'][0], selector=PFB, mode='rescore', score_scale=0.5)
    cost = count(config, mode='reuse', location='backbone.layer2', ratio=0.25)
    assert (cost.mode, cost.score_scale, cost.ratio) == ('reuse', 1.0, 0.25)
    assert cost.location == 'backbone.layer2'
    assert cost.pruned.scoring == 0


def test_auto_is_what_the_model_chooses():
    pruning = {'mode': 'auto', 'selector': PFB}
    for name, ratio in (('fcn-resnet', 0.25), ('fcn-resnet', 0.5), ('mscan', 0.25)):
        model = build(pruned(MODELS[name][0], ratio=ratio, **pruning))
        cost = count(MODELS[name][0], ratio=ratio, **pruning)
        assert (cost.mode, cost.location) == (model.pruning_mode, model.pruning_location)


def test_a_random_choice_costs_no_scoring():
    cost = count(
        MODELS['fcn-resnet'][0], selector={'type': 'Uniform'}, ratio=0.5, mode='rescore'
    )
    assert cost.pruned.scoring == 0
    assert cost.saved == pytest.approx(0.5)
    assert {place.rescore for place in cost.places} == {0.5}


def test_places_are_listed_in_order_and_with_the_modes_that_work():
    cost = count(MODELS['mscan'][0], mode='rescore')
    assert [place.location for place in cost.places] == [
        f'backbone.block{stage}.0' for stage in (1, 2, 3, 4)
    ]
    assert [place.reuse for place in cost.places] == [None] * 4
    cost = count(MODELS['fcn-resnet'][0], location='backbone.layer3.0')
    locations = [place.location.removeprefix('backbone.layer') for place in cost.places]
    assert locations == ['1', '2', '3.0', '3', '4']
    assert all(place.reuse is not None for place in cost.places)


def test_a_network_of_another_package():
    config = {'type': 'TimmClassifier', 'model_name': 'resnet10t', 'num_classes': 7}
    cost = count(config, ratio=0.5, mode='rescore')
    model = build(config).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, *SIZE)).sum().backward()
    assert cost.full.total * 2 == counter.get_total_flops()
    assert cost.location == 'model.layer1'
    assert cost.saved == pytest.approx(
        saving_bound(0.5, cost.share_before_cut, 'rescore'), abs=0.03
    )


def test_batches_are_large_enough_for_batch_normalisation():
    # The image pooling of ASPP cannot train with one image.
    cost = count(MODELS['deeplabv3-resnet'][0], ratio=0.5)
    assert (cost.batch_size, cost.num_retained) == (4, 2)
    assert count(MODELS['fcn-resnet'][0], ratio=0.5).batch_size == 2


def test_a_ratio_that_is_rounded():
    cost = count(MODELS['fcn-resnet'][0], ratio=0.12345)
    assert cost.requested_ratio == 0.12345
    assert cost.ratio == 1 - 845 / 964


def test_nothing_is_pruned():
    cost = count(MODELS['fcn-resnet'][0], ratio=0.0)
    assert (cost.saved, cost.full) == (0, cost.pruned)


def test_no_weights_are_fetched():
    config = segmentor(resnet(), fcn(128, 3), pretrained='https://nowhere.invalid/weights.pth')
    assert count(config).full.total > 0
    config = copy.deepcopy(CLASSIFIERS['timm-resnet'][0])
    config['backbone']['pretrained'] = True
    config['backbone']['checkpoint_path'] = ''
    assert count(config).full.total > 0


def test_the_configuration_is_left_alone():
    config = Config({'model': pruned(MODELS['fcn-resnet'][0]), 'data_preprocessor': {}})
    before = copy.deepcopy(config.to_dict())
    init_default_scope('mmseg')
    count_cost(config, SIZE, ratio=0.25)
    assert config.to_dict() == before


@SEGMENTATION_MODELS.register_module(force=True)
class OwnLossHead(FCNHead):
    """A head whose loss may compute anything."""

    def loss(self, inputs, batch_data_samples, train_cfg):
        return super().loss(inputs, batch_data_samples, train_cfg)


@SEGMENTATION_MODELS.register_module(force=True)
class ReadingBackbone(nn.Module):
    """A backbone that needs values on the host."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Conv2d(3, 8, 3)

    def forward(self, images):
        images = self.layer1(images)
        return (images / images.max().item(),)


def test_a_loss_that_is_not_known_is_refused():
    config = segmentor(resnet(), {**fcn(128, 3), 'type': 'OwnLossHead'})
    with pytest.raises(NotImplementedError, match='OwnLossHead cannot be counted: it trains by'):
        count(config)
    config = segmentor(resnet(), fcn(128, 3), {**fcn(64, 2), 'type': 'OwnLossHead'})
    with pytest.raises(NotImplementedError, match='OwnLossHead cannot be counted: it trains by'):
        count(config)


def test_values_that_are_not_there_are_refused():
    config = segmentor({'type': 'ReadingBackbone'}, fcn(8, 0))
    with pytest.raises(NotImplementedError, match='with images of 64x64 cannot be counted without'):
        count(config, location='backbone.layer1', mode='rescore', selector={'type': 'Uniform'})


@pytest.mark.parametrize('kind', ['DepthEstimator', 'NoSuchModel'])
def test_a_model_without_counterpart_is_refused(kind):
    config = {**MODELS['fcn-resnet'][0], 'type': kind}
    with pytest.raises(TypeError, match=f"or one of .*EncoderDecoder.*, but got '{kind}'"):
        count(config)


@pytest.mark.parametrize(
    ('pruning', 'error', 'message'),
    [
        ({'ratio': 1.0}, ValueError, '`ratio` to be in'),
        ({'mode': 'both'}, ValueError, "`mode` to be one of 'reuse', 'rescore', 'auto'"),
        ({'score_scale': 0.5}, ValueError, '`score_scale` to be 1.0'),
        ({'location': 'backbone.layer9'}, LocationError, "or a module path .*'backbone.layer9'"),
        ({'speed': 2}, ValueError, 'keys of `pruning` to be among'),
        ({'mode': 'rescore', 'score_scale': 0.05}, ValueError, 'use a `score_scale` of at least'),
    ],
)
def test_wrong_options(pruning, error, message):
    with pytest.raises(error, match=message):
        count(MODELS['fcn-resnet'][0], **pruning)


def test_wrong_pruning_in_a_configuration():
    config = {**pruned(MODELS['fcn-resnet'][0]), 'pruning': [1]}
    with pytest.raises(TypeError, match='`pruning` to be a dict, but got list'):
        count(config, mode='reuse')
