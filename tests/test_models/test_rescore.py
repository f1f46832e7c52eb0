"""With ``mode='rescore'`` a pruned step is the stock step on the retained images, bit for bit."""

import copy
import pickle

import pytest
import torch
from mmengine.structures import PixelData
from torch import nn

from mmpfb.errors import LocationError
from mmpfb.models.probe import Probe
from mmpfb.pruner import Phase

from .architectures import SEGMENTORS, SEGMENTORS_FOR_RESCORE, VIT, fcn, segmentor
from .classifiers import CLASSIFIERS, NUM_CLASSES
from .helpers import assert_equal_steps, batch, build, pair, pruned, total
from .test_classifiers import batch as class_batch

PFB = {'type': 'PFB', 'num_centroids': 4}
ALL = {**SEGMENTORS, **SEGMENTORS_FOR_RESCORE}


def rescored(config, **pruning):
    """Return a model in training that is ready to prune, and the stock model with its weights."""
    model = build(pruned(config, **{'mode': 'rescore', 'selector': PFB, **pruning})).train()
    stock = build(config).train()
    return model, stock


def with_edges(images, samples):
    for sample in samples:
        edges = (sample.gt_sem_seg.data > 2).long()
        sample.set_data({'gt_edge_map': PixelData(data=edges)})
    return images, samples


def assert_bit_equal_step(model, stock, images, samples):
    model.loss(images, samples)
    stock.load_state_dict(model.state_dict(), strict=True)
    random = torch.get_rng_state()
    got = model.loss(images, samples)
    drawn = torch.get_rng_state()
    kept = model.pruner.last_kept
    assert len(kept) == 2
    torch.set_rng_state(random)
    expected = stock.loss(images[kept], [samples[index] for index in kept])
    # As many random numbers were drawn as by the stock step.
    assert torch.equal(drawn, torch.get_rng_state())
    assert got.keys() == expected.keys()
    for key in expected:
        assert torch.equal(torch.as_tensor(got[key]), torch.as_tensor(expected[key])), key
    total(got).backward()
    total(expected).backward()
    for (key, left), right in zip(model.named_parameters(), stock.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None), key
        assert left.grad is None or torch.equal(left.grad, right.grad), key
    # Running statistics and counts of batches of the batch normalisation.
    for (key, left), right in zip(
        model.state_dict().items(), stock.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right), key


@pytest.mark.parametrize('scale', [1.0, 0.5])
@pytest.mark.parametrize('name', SEGMENTORS)
def test_the_step_of_a_segmentor(name, scale):
    config, location = SEGMENTORS[name]
    model, stock = rescored(config, score_scale=scale)
    assert (model.pruning_mode, model.pruning_location) == ('rescore', location)
    assert_bit_equal_step(model, stock, *batch())


@pytest.mark.parametrize('name', SEGMENTORS_FOR_RESCORE)
def test_the_step_of_a_segmentor_that_cannot_be_cut(name):
    config, location = SEGMENTORS_FOR_RESCORE[name]
    with pytest.raises(LocationError, match=f"cannot be cut at '{location}'"):
        build(pruned(config, location=location, mode='reuse'))
    model, stock = rescored(config, location=location, score_scale=0.5)
    assert_bit_equal_step(model, stock, *with_edges(*batch()))


@pytest.mark.parametrize('name', ['mscan', 'pcpvt', 'bisenetv1', 'bisenetv2'])
def test_auto_location_of_backbones_that_cannot_be_cut(name):
    config, location = SEGMENTORS_FOR_RESCORE[name]
    model, _ = rescored(config)
    assert model.pruning_location.rpartition('.')[0] == location.rpartition('.')[0]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_step_of_a_classifier(name):
    config, location = CLASSIFIERS[name]
    model, stock = rescored(config)
    assert model.pruning_location == location
    assert_bit_equal_step(model, stock, *class_batch())


def test_the_neck_can_be_the_place():
    model, stock = rescored(SEGMENTORS['fpn-resnet'][0], location='neck', score_scale=0.5)
    assert_bit_equal_step(model, stock, *batch())


def test_a_module_inside_of_a_stage_can_be_the_place():
    config, _ = SEGMENTORS['upernet-swin']
    model, stock = rescored(config, location='backbone.stages.1.blocks.0')
    assert_bit_equal_step(model, stock, *batch())


def test_scoring_computes_nothing_behind_the_place():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], score_scale=0.5)
    sizes = {name: [] for name in ('layer1', 'layer3', 'layer4')}
    for name, seen in sizes.items():
        model.backbone.get_submodule(name).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(tuple(args[0].shape[::2]))
        )
    images, samples = batch()
    model.loss(images, samples)
    model.loss(images, samples)
    # The first batch fills the estimator and is trained whole.
    assert [size[0] for size in sizes['layer1']] == [4, 4, 4, 2]
    assert [size[0] for size in sizes['layer3']] == [4, 4, 4, 2]
    assert [size[0] for size in sizes['layer4']] == [4, 2]
    assert [size[1] for size in sizes['layer1']] == [8, 16, 8, 16]


def test_hooks_on_the_encoder_see_one_pass_a_step():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0])
    begun, ended = [], []
    model.backbone.register_forward_pre_hook(lambda *_: begun.append(True))
    model.backbone.register_forward_hook(lambda *_: ended.append(True))
    for _ in range(3):
        model.loss(*batch())
    assert len(begun) == len(ended) == 3


def test_a_random_choice_makes_no_scoring_pass():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], selector={'type': 'Uniform'})
    calls = []
    model.backbone.layer1.register_forward_hook(lambda m, a, output: calls.append(len(output)))
    model.loss(*batch())
    assert calls == [2]


@pytest.mark.parametrize('phase', [Phase.OBSERVE, Phase.IDLE])
def test_an_unpruned_step_is_the_stock_step_bit_for_bit(phase):
    model, stock = rescored(SEGMENTORS['deeplabv3plus-resnet'][0], score_scale=0.5)
    stock.load_state_dict(model.state_dict())
    model.pruner.phase = phase
    got, expected = model.loss(*batch()), stock.loss(*batch())
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    # Running statistics that have yet to settle would spoil the first centroids.
    assert model.pruner.selector.num_images_missing == 4
    assert (model.pruner.images_seen, model.pruner.images_kept) == (4, 4)
    for left, right in zip(
        model.state_dict().values(), stock.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right)


def test_frozen_modules_stay_frozen():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0])
    model.backbone.layer1.eval()
    flags = [module.training for module in model.modules()]
    for _ in range(2):
        model.loss(*batch())
    assert [module.training for module in model.modules()] == flags


def test_under_autocast_every_weight_gets_its_gradient():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], score_scale=0.5)
    for _ in range(2):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = total(model.loss(*batch()))
    loss.backward()
    assert len(model.pruner.last_kept) == 2
    assert model.pruner.selector.estimator.centroids.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_prune_on_their_own(clone):
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], score_scale=0.5)
    model.loss(*batch())
    copied = clone(model)
    copied.loss(*batch())
    assert len(copied.pruner.last_kept) == 2
    assert model.pruner.last_kept is None
    assert copied.state_dict().keys() == build(SEGMENTORS['fcn-resnet'][0]).state_dict().keys()


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
def test_labels_are_waited_for_after_the_encoder(mode, monkeypatch):
    """On a GPU the encoder keeps the device busy while the host waits for the choice."""
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], mode=mode, selector={'type': 'Uniform'})
    order = []
    model.backbone.layer4.register_forward_hook(lambda *_: order.append('layer4'))
    model.decode_head.conv_seg.register_forward_pre_hook(lambda *_: order.append('head'))
    last_kept = type(model.pruner).last_kept

    def waiting(pruner):
        order.append('labels')
        return last_kept.fget(pruner)

    monkeypatch.setattr(type(model.pruner), 'last_kept', property(waiting))
    model.loss(*batch())
    assert order == ['layer4', 'labels', 'head']


def test_heads_never_read_labels_of_other_images(monkeypatch):
    """Whoever reads the data samples before the choice is known finds none."""
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], selector={'type': 'Uniform'})
    monkeypatch.setattr(model, '_settle_samples', lambda: None)
    with pytest.raises((RuntimeError, IndexError), match='non-empty|out of range'):
        model.loss(*batch())


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
def test_channels_last_stays_channels_last_behind_the_cut(mode):
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], mode=mode)
    model = model.to(memory_format=torch.channels_last)
    layouts = []
    model.backbone.layer4.register_forward_hook(
        lambda module, args, output: layouts.append(
            [len(args[0])]
            + [x.is_contiguous(memory_format=torch.channels_last) for x in (args[0], output)]
        )
    )
    images, samples = batch()
    images = images.to(memory_format=torch.channels_last)
    for _ in range(2):
        total(model.loss(images, samples)).backward()
    assert layouts == [[4, True, True], [2, True, True]]


# Refusals


def test_a_scaled_image_smaller_than_the_stride_is_refused_with_a_scale_that_works():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], score_scale=0.1)
    images, samples = batch()
    with pytest.raises(
        ValueError, match=r"the stride 8 at 'backbone.layer3', but images of 64x64 become 6x6.*0.12"
    ):
        model.loss(images, samples)
    build(pruned(SEGMENTORS['fcn-resnet'][0], mode='rescore', score_scale=0.125)).loss(
        images, samples
    )


FIXED = {
    'type': 'mmpretrain.TIMMBackbone', 'model_name': 'vit_tiny_patch16_224', 'img_size': 64,
    'depth': 4, 'features_only': True,
}


def test_a_network_of_one_size_is_refused_with_the_scales_that_work():
    config = segmentor(FIXED, fcn(192, 0))
    location = 'backbone.timm_model.model.blocks.1'
    with pytest.raises(ValueError, match='`score_scale` at which.*64.*values that work: 1.$'):
        build(pruned(config, location=location, mode='rescore', score_scale=0.5))
    model, _ = rescored(config, location=location)
    model.loss(*batch())
    assert_bit_equal_step(model, build(config).train(), *batch())


def test_a_network_is_probed_at_the_size_that_it_names():
    config = {
        'type': 'TimmClassifier', 'model_name': 'vit_tiny_patch16_224', 'img_size': 72, 'depth': 4,
        'patch_size': 8,
    }
    assert build(pruned(config)).pruning_location == 'model.blocks.1'


def test_position_embeddings_that_are_resized_take_any_scale():
    config = segmentor(VIT, fcn(32, 2))
    model, stock = rescored(config, score_scale=0.5, location='backbone.layers.2')
    assert_bit_equal_step(model, stock, *batch())


def test_a_size_that_fails_in_training_is_refused_with_the_scales_that_work():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0], score_scale=0.5)

    def take_other_sizes(module, args):
        if args[0].shape[-1] == 20:
            raise ValueError('expected another size')

    model.backbone.stem.register_forward_pre_hook(take_other_sizes)
    message = '40x40 cannot be scored with score_scale=0.5.*values that work: 1, 0.75, 0.25'
    with pytest.raises(ValueError, match=message):
        model.loss(*batch(side=40))


def test_an_unknown_place_is_refused_with_those_that_work():
    config = SEGMENTORS_FOR_RESCORE['unet'][0]
    with pytest.raises(LocationError, match="'auto' needs .*rescore.*encoder.1, .*decoder.1"):
        build(pruned(config, mode='rescore'))
    with pytest.raises(LocationError, match="`location` to be 'auto' or a module path such as"):
        build(pruned(config, mode='rescore', location='backbone.layer3'))
    with pytest.raises(LocationError, match='cannot be scored .*did not run.*works at'):
        build(pruned(config, mode='rescore', location='backbone.encoder'))


def test_rows_that_are_no_images_are_refused():
    config, _ = SEGMENTORS['upernet-swin']
    # Windows come first here: more rows than images.
    with pytest.raises(LocationError, match='cannot be scored at .*a row for each of 4 images'):
        build(pruned(config, mode='rescore', location='backbone.stages.0.blocks.0.attn.w_msa'))


class Mixing(nn.Module):
    """Adds to every image the mean of all."""

    def forward(self, images):
        return images + images.mean(0, keepdim=True)


def test_features_that_depend_on_other_images_are_refused():
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), Mixing(), nn.Conv2d(4, 4, 3))
    model.extract_feat = model.backbone.forward
    probe = Probe(model, 'backbone', 'extract_feat')
    scoring, stage = probe.rescore('backbone.0', 0.5)
    assert (scoring.scale, stage.channels, stage.axis) == (0.5, 4, 1)
    with pytest.raises(LocationError, match='depend on other images; .*works at: backbone.0.$'):
        probe.rescore('backbone.1', 1.0)


def test_a_model_in_shards_is_refused():
    model, _ = rescored(SEGMENTORS['fcn-resnet'][0])

    class FSDPModule:
        pass

    cls = type(model.backbone)
    model.backbone.__class__ = type(f'FSDP{cls.__name__}', (FSDPModule, cls), {})
    with pytest.raises(LocationError, match="cannot end a pass inside of FSDP.*mode='reuse'"):
        model.loss(*batch())


# The mode that is chosen


@pytest.mark.parametrize(
    ('ratio', 'scale', 'expected'),
    [
        (0.3, None, ('rescore', 0.5)), (0.05, None, ('reuse', 1.0)), (0.3, 1.0, ('reuse', 1.0)),
        (0.5, 1.0, ('rescore', 1.0)), (0.05, 0.25, ('rescore', 0.25)),
    ],
)
def test_auto_is_what_saves_most(ratio, scale, expected):
    config = pruned(
        SEGMENTORS['fcn-resnet'][0], mode='auto', ratio=ratio, score_scale=scale, selector=PFB
    )
    model = build(config)
    assert (model.pruning_mode, model.pruning_score_scale) == expected


@pytest.mark.parametrize(
    ('ratio', 'scale', 'expected'),
    [
        (0.5, None, ('rescore', 1.0)), (0.3, None, ('reuse', 1.0)), (0.5, 0.5, ('reuse', 1.0)),
    ],
)
def test_auto_takes_what_works_for_a_network_of_one_size(ratio, scale, expected):
    config = {
        'type': 'TimmClassifier', 'model_name': 'vit_tiny_patch16_224', 'img_size': 64, 'depth': 4,
    }
    model = build(pruned(config, mode='auto', ratio=ratio, score_scale=scale, selector=PFB))
    assert (model.pruning_mode, model.pruning_score_scale) == expected


def test_auto_takes_what_works_for_a_network_that_cannot_be_cut():
    config = SEGMENTORS_FOR_RESCORE['mscan'][0]
    model = build(pruned(config, mode='auto', ratio=0.05, selector=PFB))
    assert (model.pruning_mode, model.pruning_score_scale) == ('rescore', 0.5)
    with pytest.raises(LocationError, match='cannot be scored at'):
        build(pruned(config, mode='auto', location='backbone.block1'))


def test_auto_scores_images_that_are_too_small_at_full_scale(capsys):
    config, _ = SEGMENTORS['fcn-resnet']
    model = build(pruned(config, mode='auto', selector=PFB)).train()
    images, samples = batch(side=12)
    for _ in range(2):
        model.loss(images, samples)
    assert len(model.pruner.last_kept) == 2
    assert model.pruning_score_scale == 1
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert text.count('12x12 become 6x6; use a') == 1
    assert 'All images are scored at full scale' in text
    asked_for = build(pruned(config, mode='auto', score_scale=0.5, selector=PFB)).train()
    with pytest.raises(ValueError, match='12x12 become 6x6'):
        asked_for.loss(images, samples)


def test_auto_says_what_it_stands_for(capsys):
    build(pruned(SEGMENTORS['fcn-resnet'][0], mode='auto', selector=PFB))
    printed = capsys.readouterr()
    assert "mode='auto' is 'rescore' at scale 0.5 here." in printed.out + printed.err


# Classifiers that hold a whole network of another package


def whole_networks(tmp_path):
    pytest.importorskip('timm')
    transformers = pytest.importorskip('transformers')
    transformer = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=64, patch_size=16, num_labels=NUM_CLASSES,
    )
    convolutional = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], layer_type='basic',
        num_labels=NUM_CLASSES,
    )
    transformer.save_pretrained(tmp_path / 'transformer')
    convolutional.save_pretrained(tmp_path / 'convolutional')
    timm = {'type': 'TimmClassifier', 'num_classes': NUM_CLASSES}
    hugging_face = {'type': 'HuggingFaceClassifier'}
    return {
        'timm-resnet': ({**timm, 'model_name': 'resnet18'}, 'model.layer1'),
        'timm-vit': (
            {**timm, 'model_name': 'vit_tiny_patch16_224', 'img_size': 64, 'depth': 4},
            'model.blocks.1',
        ),
        'hugging-face-vit': (
            {**hugging_face, 'model_name': str(tmp_path / 'transformer')}, 'model.vit.layers.0',
        ),
        'hugging-face-resnet': (
            {**hugging_face, 'model_name': str(tmp_path / 'convolutional')},
            'model.resnet.encoder.stages.0',
        ),
    }


@pytest.mark.parametrize(
    'name', ['timm-resnet', 'timm-vit', 'hugging-face-vit', 'hugging-face-resnet']
)
def test_the_step_of_a_whole_network(name, tmp_path):
    config, location = whole_networks(tmp_path)[name]
    model, stock = rescored(config)
    assert model.pruning_location == location
    assert_bit_equal_step(model, stock, *class_batch())


@pytest.mark.parametrize('name', ['timm-resnet', 'timm-vit', 'hugging-face-vit'])
def test_the_step_of_a_whole_network_that_is_cut(name, tmp_path):
    config, _ = whole_networks(tmp_path)[name]
    kept = assert_equal_steps(*pair(config, mode='reuse'), *class_batch())
    assert len(kept) == 2


def test_the_checkpoint_of_a_whole_network_is_the_stock_models(tmp_path):
    config, _ = whole_networks(tmp_path)['timm-resnet']
    model = build(pruned(config))
    result = build(config).load_state_dict(model.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
