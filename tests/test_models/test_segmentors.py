"""A pruned step is the stock model's step on the retained images; all else is the stock model."""

import copy
import io
import pickle

import pytest
import torch
from mmseg.registry import MODELS

from mmpfb.errors import LocationError
from mmpfb.pruner import Phase

from .architectures import (
    MOBILENET,
    SEGMENTORS,
    SEGMENTORS_FOR_RESCORE,
    SWIN,
    fcn,
    resnet,
    segmentor,
)
from .helpers import (
    assert_equal_steps,
    batch,
    build,
    freeze_batch_statistics,
    pruned,
    total,
)
from .helpers import pair as pair_of

NAMES = list(SEGMENTORS)


def pair(name, **pruning):
    return pair_of(SEGMENTORS[name][0], **pruning)


@pytest.mark.parametrize('name', NAMES)
def test_auto_location_is_the_stage_of_the_auxiliary_head(name):
    config, expected = SEGMENTORS[name]
    assert build(pruned(config)).pruning_location == expected


@pytest.mark.parametrize('name', NAMES)
def test_loss_and_gradients_are_those_of_the_stock_model_on_the_retained_images(name):
    assert_equal_steps(*pair(name), *batch(size=4))


@pytest.mark.parametrize('location', ['stem', 'layer1', 'layer2', 'layer3', 'layer4'])
def test_any_stage_can_be_the_cut(location):
    assert_equal_steps(*pair('upernet-resnet', location=f'backbone.{location}'), *batch(size=4))


@pytest.mark.parametrize('name', ['fpn-resnet'])
def test_the_neck_can_be_the_cut(name):
    assert_equal_steps(*pair(name, location='neck'), *batch(size=4))


@pytest.mark.parametrize('name', ['fcn-resnet', 'ocrnet-hrnet'])
def test_everything_behind_the_cut_runs_on_the_retained_images_only(name):
    model, _ = pair(name)
    sizes = {}
    for path, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, path=path: sizes.__setitem__(path, args[0])
        )
    images, samples = batch(size=6)
    model.loss(images, samples)
    cut = model.pruning_location
    assert sizes[cut][0].shape[0] == 6 if isinstance(sizes[cut], list) else len(sizes[cut]) == 6
    seen = [path for path in sizes if path.startswith(('decode_head', 'auxiliary_head'))]
    assert seen
    for path in seen:
        value = sizes[path]
        while isinstance(value, (list, tuple)):
            value = value[0]
        assert value.shape[0] == 3, path


def test_pruned_images_have_no_influence():
    model, _ = pair('upernet-resnet')
    images, samples = batch(size=4)
    first = total(model.loss(images, samples))
    kept = model.pruner.last_kept
    changed = images.clone()
    changed[[index for index in range(4) if index not in kept]] *= -3
    model.pruner.iteration = 0
    model.pruner._budget.load_state_dict({'numerator': 0, 'denominator': 1})
    assert torch.equal(total(model.loss(changed, samples)), first)
    assert model.pruner.last_kept == kept


def test_callers_samples_are_left_alone():
    model, _ = pair('fcn-resnet')
    images, samples = batch(size=4)
    given = list(samples)
    model.loss(images, given)
    assert given == samples


@pytest.mark.parametrize('name', ['deeplabv3-resnet', 'upernet-swin', 'ocrnet-resnet'])
@pytest.mark.parametrize('training', [False, True])
def test_predict_and_tensor_mode_are_the_stock_models_bit_for_bit(name, training):
    model, stock = pair(name)
    if not training:
        model.eval()
        stock.eval()
    images, samples = batch(size=3)
    if not name.startswith('ocrnet'):  # the stock cascade has no tensor mode
        assert torch.equal(model(images, mode='tensor'), stock(images, mode='tensor'))
    got = model(images, copy.deepcopy(samples), mode='predict')
    expected = stock(images, copy.deepcopy(samples), mode='predict')
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.seg_logits.data, right.seg_logits.data)
    assert model.pruner.images_seen == 0


def test_test_time_augmentation_is_the_stock_models_bit_for_bit():
    model, stock = pair('upernet-swin')
    images, samples = batch(size=2)
    flipped = copy.deepcopy(samples)
    for plain, mirrored in zip(samples, flipped, strict=True):
        plain.set_metainfo({'flip': False, 'flip_direction': None})
        mirrored.set_metainfo({'flip': True, 'flip_direction': 'horizontal'})
    data = {
        'inputs': [list(images), list(images.flip(-1))],
        'data_samples': [samples, flipped],
    }
    results = []
    for module in (model, stock):
        augmented = MODELS.build(dict(type='SegTTAModel', module=module)).eval()
        with torch.no_grad():
            results.append(augmented.test_step(copy.deepcopy(data)))
    for left, right in zip(*results, strict=True):
        assert torch.equal(left.pred_sem_seg.data, right.pred_sem_seg.data)


def test_loss_in_evaluation_is_the_stock_models():
    model, stock = pair('fcn-resnet')
    images, samples = batch(size=4)
    got, expected = model.eval().loss(images, samples), stock.eval().loss(images, samples)
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert model.pruner.images_seen == 0


@pytest.mark.parametrize(
    ('ratio', 'phase'), [(0.0, Phase.PRUNE), (0.5, Phase.OBSERVE), (0.5, Phase.IDLE)]
)
def test_an_unpruned_step_is_the_stock_step_bit_for_bit(ratio, phase):
    model, stock = pair('deeplabv3plus-resnet', ratio=ratio, selector=dict(type='PFB'))
    model.pruner.phase = phase
    images, samples = batch(size=4)
    got, expected = model.loss(images, samples), stock.loss(images, samples)
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    total(got).backward()
    total(expected).backward()
    for left, right in zip(model.parameters(), stock.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)
    assert (model.pruner.images_seen, model.pruner.images_kept) == (4, 4)


@pytest.mark.parametrize('name', ['fcn-resnet', 'ocrnet-hrnet', 'upernet-swin'])
def test_state_dict_has_exactly_the_stock_keys(name):
    model, stock = pair(name, selector=dict(type='PFB', num_centroids=2))
    model.loss(*batch())
    assert model.state_dict().keys() == stock.state_dict().keys()


def test_building_leaves_weights_flags_and_random_numbers_alone():
    config, _ = SEGMENTORS['deeplabv3-resnet']
    stock = build(config)
    stock_state = torch.get_rng_state()
    model = build(pruned(config))
    assert torch.equal(torch.get_rng_state(), stock_state)
    for (key, left), right in zip(
        model.state_dict().items(), stock.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right), key
    assert all(module.training for module in model.modules())


def test_frozen_stages_stay_frozen():
    config = segmentor(resnet(frozen_stages=1, norm_eval=True), fcn(128, 3), fcn(64, 2))
    model, stock = build(pruned(config)), build(config)
    assert [m.training for m in model.modules()] == [m.training for m in stock.modules()]


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_prune_on_their_own(clone):
    model, _ = pair('fcn-resnet')
    copied = clone(model)
    copied.loss(*batch())
    assert len(copied.pruner.last_kept) == 2
    assert model.pruner.last_kept is None
    assert model.pruner.images_seen == 0


def test_model_saves_and_loads_as_a_whole():
    model, _ = pair('fcn-resnet')
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    build(SEGMENTORS['fcn-resnet'][0]).load_state_dict(
        torch.load(buffer, weights_only=True), strict=True
    )


def test_without_a_hook_the_model_prunes_as_soon_as_the_estimator_is_ready():
    config, _ = SEGMENTORS['fcn-resnet']
    model = build(pruned(config, selector=dict(type='PFB', num_centroids=8))).train()
    sizes = []
    for seed in range(4):
        model.loss(*batch(seed=seed))
        sizes.append(4 if model.pruner.last_kept is None else len(model.pruner.last_kept))
    assert sizes == [4, 4, 2, 2]


def test_nan_images_are_kept_counted_and_never_enter_the_estimator():
    config, _ = SEGMENTORS['fcn-resnet']
    model = build(pruned(config, selector=dict(type='PFB', num_centroids=4)))
    model = freeze_batch_statistics(model.train())
    model.loss(*batch())
    images, samples = batch(seed=1)
    images[2] = torch.nan
    losses = model.loss(images, samples)
    assert 2 in model.pruner.last_kept
    assert torch.isnan(total(losses))
    assert model.pruner.non_finite_images == 1
    assert torch.isfinite(model.pruner.selector.estimator.centroids).all()


@pytest.mark.parametrize(
    ('head', 'expected'),
    [('fcn-resnet', 1), ('pspnet-resnet', 2), ('deeplabv3-resnet', 2), ('upernet-resnet', 2),
     ('segformer-mit', 1), ('ocrnet-hrnet', 1), ('deeplabv3plus-resnet', 2)],
)
def test_fewest_retained_images_follow_the_batch_normalisation(head, expected):
    """What the rule says is what PyTorch does with one image."""
    config, _ = SEGMENTORS[head]
    model = build(pruned(config))
    assert model.pruner.min_keep == expected
    stock = build(config).train()
    if expected == 2:
        with pytest.raises(ValueError, match='more than 1 value per channel'):
            stock.loss(*batch(size=1))
    else:
        stock.loss(*batch(size=1))


@pytest.mark.parametrize('name', ['MSCAN', 'PCPVT'])
@pytest.mark.parametrize('index', [1, 2])
def test_a_backbone_that_remembers_its_batch_size_is_refused(name, index):
    path = f'backbone.block{index}.0' if name == 'MSCAN' else f'backbone.layers.{index}.0'
    config = SEGMENTORS_FOR_RESCORE[name.lower()][0]
    with pytest.raises(LocationError, match=f'{name} cannot be cut at .*{path}'):
        build(pruned(config, location=path))


def test_a_backbone_without_any_place_for_a_cut_is_refused_with_that_message():
    config = SEGMENTORS_FOR_RESCORE['mscan'][0]
    message = "MSCAN cannot be cut at.*none of its stages allows it; mode='rescore' works at"
    with pytest.raises(LocationError, match=message):
        build(pruned(config))


def test_a_unet_is_refused_behind_its_first_encoder_and_told_where_it_works():
    config = SEGMENTORS_FOR_RESCORE['unet'][0]
    with pytest.raises(LocationError, match="'auto' needs an auxiliary head.*cut at: .*encoder.0"):
        build(pruned(config))
    with pytest.raises(LocationError, match='UNet cannot be cut at .backbone.encoder.1.'):
        build(pruned(config, location='backbone.encoder.1'))
    build(pruned(config, location='backbone.encoder.0'))


def test_the_refusal_lists_where_the_backbone_can_be_cut():
    config = segmentor(MOBILENET, fcn(160, 3), fcn(48, 2))
    with pytest.raises(LocationError, match='backbone.layer1, backbone.layer2'):
        build(pruned(config, location='backbone.layer99'))
    config = segmentor(resnet(), fcn(128, 3), fcn(64, 2))
    with pytest.raises(LocationError, match='it can be cut at: backbone.layer1, backbone.layer2'):
        build(pruned(config, location='backbone.layer2.0.conv1'))


@pytest.mark.parametrize('location', ['', 'layer3', 'backbone.layer9', 'nonsense'])
def test_an_unknown_location_is_refused_with_the_candidates(location):
    config, _ = SEGMENTORS['fcn-resnet']
    message = f'backbone.layer3, backbone.layer4, but got {location!r}'
    with pytest.raises(LocationError, match=message):
        build(pruned(config, location=location))


def test_a_module_that_never_runs_is_refused():
    config = segmentor(SWIN, fcn(128, 3), fcn(64, 2))
    with pytest.raises(LocationError, match='did not run in this forward pass'):
        build(pruned(config, location='backbone.stages'))


@pytest.mark.parametrize(
    ('pruning', 'message'),
    [
        (dict(ratio=1.0), r'`ratio` to be in \[0, 1\), but got 1.0'),
        (dict(ratio=-0.1), r'`ratio` to be in \[0, 1\), but got -0.1'),
        (dict(ratio='0.3'), r"`ratio` to be in \[0, 1\), but got '0.3'"),
        (dict(ratio=float('nan')), r'`ratio` to be in \[0, 1\), but got nan'),
        (dict(min_keep=0), '`min_keep` to be an integer of at least 1, but got 0'),
        (
            dict(mode='restart'),
            "`mode` to be one of 'reuse', 'rescore', 'auto', but got 'restart'",
        ),
        (dict(mode='rescore', score_scale=0), r'`score_scale` to be in \(0, 1\], but got 0'),
        (dict(mode='rescore', score_scale=1.5), r'`score_scale` to be in \(0, 1\], but got 1.5'),
        (dict(mode='auto', score_scale='half'), r"`score_scale` .* but got 'half'"),
        (dict(score_scale=0.5), '`score_scale` to be 1.0 with mode=.reuse.'),
        (dict(radio=0.5), r"keys of `pruning` to be among .*'ratio'.* but got \['radio'\]"),
        (dict(selector=dict(type='Best')), r"one of \[.*'PFB', 'Uniform'\], but got 'Best'"),
        (dict(selector=dict(type='PFB', num_centroids=1)), '`num_centroids` .* 2, but got 1'),
        (
            dict(selector=dict(type='PFB', centroids=1)),
            r"selector 'PFB' to be among \['num_centroids'.* but got \['centroids'\]",
        ),
        (dict(selector=dict(type='PFB', bandwidth='wide')), "`bandwidth` .* but got 'wide'"),
    ],
)
def test_wrong_settings_are_refused_when_the_model_is_built(pruning, message):
    with pytest.raises(ValueError, match=message):
        build(pruned(SEGMENTORS['fcn-resnet'][0], **pruning))


@pytest.mark.parametrize(
    ('pruning', 'message'),
    [
        (dict(selector='PFB'), "`selector` to be a dict such as dict\\(type='PFB'\\)"),
        (dict(location=3), "`location` to be 'auto' or a module path, but got 3"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(pruning, message):
    with pytest.raises(TypeError, match=message):
        build(pruned(SEGMENTORS['fcn-resnet'][0], **pruning))


def test_pruning_that_is_no_dict_is_refused():
    config = {**pruned(SEGMENTORS['fcn-resnet'][0]), 'pruning': 0.5}
    with pytest.raises(TypeError, match='`pruning` to be a dict, but got float'):
        build(config)


def test_selector_options_without_a_type_are_those_of_pfb():
    config = pruned(SEGMENTORS['fcn-resnet'][0], selector=dict(num_centroids=16))
    assert build(config).pruner.selector.num_centroids == 16


def test_pruning_defaults_are_the_papers():
    config = {**pruned(SEGMENTORS['fcn-resnet'][0])}
    del config['pruning']
    model = build(config)
    assert model.pruner.ratio == 0.3
    assert model.pruner.selector.num_centroids == 64
    assert model.pruner.selector.estimator.dim == 64  # the stage has fewer than 128 channels
