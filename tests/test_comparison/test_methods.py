"""The configurations that the methods of a comparison train by."""

import copy

import pytest
from mmengine.config import Config

from mmpfb.comparison.methods import METHODS, Plan, parse_method
from tests.test_engine import tiny_run

ITERATIONS, SHORT, PER_EPOCH = 20, 14, 6
NAMES = list(METHODS)
BY_KIND = {
    kind: [name for name in NAMES if METHODS[name].kind == kind]
    for kind in ('full', 'short', 'batch', 'epoch')
}


def configured(text, base=None, equal_images=True, **settings):
    """The changed configuration, and the one that it was made from."""
    base = base or tiny_run.config('nowhere', **{'pruning': False, 'hook': False, **settings})
    given = copy.deepcopy(base.to_dict())
    plan = Plan(base, 0.3, ITERATIONS, SHORT, PER_EPOCH, equal_images)
    changed = plan.config_of(parse_method(text), seed=7)
    assert base.to_dict() == given
    return changed, base


# ---- Names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'options', 'label', 'caption'),
    [
        ('full', {}, 'full', 'Full training'),
        ('pfb:', {}, 'pfb', 'PFB'),
        ('pfb:temperature=0.5', {'temperature': 0.5}, 'pfb-temperature=0.5',
         'PFB (temperature 0.5)'),
        ('ucb:a=1,b=True,c=mean', {'a': 1, 'b': True, 'c': 'mean'}, 'ucb-a=1-b=True-c=mean',
         'UCB (a 1, b True, c mean)'),
    ],
)
def test_names_and_options(text, options, label, caption):
    method = parse_method(text)
    assert (method.options, method.label, method.caption) == (options, label, caption)
    assert METHODS[method.name].options == {}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('best', r"one of full, short, .*, with options after a colon if need be, but got 'best'"),
        ('pfb:temperature', "temperature=0.5 after the colon, but got 'pfb:temperature'"),
        ('pfb:=3', 'after the colon, but got'),
        ('short:ratio=1', "no options for 'short', which has none, but got 'short:ratio=1'"),
    ],
)
def test_wrong_names_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_method(text)


# ---- Configurations --------------------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES)
def test_every_run_is_recorded_and_seeded(name):
    changed, _ = configured(name)
    assert changed.default_hooks.run_record == {'type': 'mmpfb.RunRecordHook'}
    assert changed.randomness == {'seed': 7}
    # It is read from a file in the end.
    assert Config.fromstring(changed.pretty_text, '.py').to_dict() == changed.to_dict()


@pytest.mark.parametrize('settings', [{}, {'pruning': {}, 'hook': {}}])
def test_the_full_training_is_the_plain_one(settings):
    changed, _ = configured('full', **settings)
    del changed.default_hooks['run_record']
    plain = tiny_run.config('nowhere', pruning=False, hook=False).to_dict()
    plain['randomness'] = {'seed': 7}
    if settings:
        plain['model']['type'] = 'mmseg.EncoderDecoder'
    assert changed.to_dict() == plain


@pytest.mark.parametrize('name', BY_KIND['batch'])
def test_pruning_in_the_batch_changes_the_model_alone(name):
    changed, base = configured(f'{name}:option=3')
    assert changed.model.type == 'mmpfb.PFBEncoderDecoder'
    assert changed.model.pruning == {
        'selector': {'type': METHODS[name].component, 'option': 3}, 'ratio': 0.3
    }
    assert changed.default_hooks.pruning == {'type': 'mmpfb.PruningScheduleHook'}
    for part in ('train_cfg', 'train_dataloader', 'optim_wrapper'):
        assert changed[part] == base[part]


def test_settings_of_a_pruned_configuration_are_kept():
    given = {'pruning': {'location': 'backbone.layer2', 'ratio': 0.9}, 'hook': {'begin': 0.3}}
    own, _ = configured('pfb:temperature=0', **given)
    assert own.model.pruning == {
        'selector': {'type': 'PFB', 'num_centroids': 8, 'temperature': 0},
        'location': 'backbone.layer2', 'ratio': 0.3,
    }
    assert own.default_hooks.pruning.begin == 0.3
    other, _ = configured('uniform', **given)
    assert other.model.pruning.selector == {'type': 'Uniform'}
    assert other.model.pruning.location == 'backbone.layer2'


@pytest.mark.parametrize(
    ('text', 'kept'), [('pfb', True), ('pfb:temperature=1', False), ('uniform', False)]
)
def test_a_schedule_of_the_temperature_goes_to_its_own_selector(text, kept):
    changed, _ = configured(text, pruning={}, hook={'temperature': [1.0, 0.0]})
    assert ('temperature' in changed.default_hooks.pruning) == kept
    assert changed.default_hooks.pruning.begin == 0.25


@pytest.mark.parametrize('name', ['full', 'short', 'infobatch'])
def test_hooks_that_need_pruning_go_with_it(name):
    base = tiny_run.config('nowhere')
    base.default_hooks.retention = dict(type='mmpfb.RetentionRecordHook')
    base.custom_hooks = [dict(type='EMAHook'), dict(type='mmpfb.ScoreAgreementHook')]
    changed, _ = configured(name, base)
    assert not {'retention', 'pruning'} & set(changed.default_hooks)
    assert changed.custom_hooks == [{'type': 'EMAHook'}]
    pruned, _ = configured('uniform', base)
    assert {'retention', 'pruning'} <= set(pruned.default_hooks)


@pytest.mark.parametrize('name', BY_KIND['epoch'])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_pruning_epochs_changes_the_sampler_and_the_length(name, by_epoch):
    settings = {'by_epoch': by_epoch, 'max_iters': 5 if by_epoch else ITERATIONS}
    base = tiny_run.config('nowhere', pruning=False, hook=False, **settings)
    for equal_images, iterations in ((True, SHORT), (False, ITERATIONS)):
        changed, _ = configured(f'{name}:option=3', base, equal_images)
        assert changed.train_dataloader.sampler == {
            'type': METHODS[name].component, 'ratio': 0.3, 'infinite': True, 'option': 3
        }
        assert changed.default_hooks.image_losses == {'type': 'mmpfb.ImageLossesHook'}
        assert changed.train_cfg.type == 'IterBasedTrainLoop'
        assert changed.train_cfg.max_iters == iterations
        assert changed.model == base.model


@pytest.mark.parametrize('equal_images', [True, False])
def test_the_shorter_schedule_is_always_shorter(equal_images):
    changed, base = configured('short', equal_images=equal_images)
    assert changed.train_cfg.max_iters == SHORT
    assert changed.train_dataloader == base.train_dataloader
    assert 'image_losses' not in changed.default_hooks


def test_a_model_without_counterpart_is_refused():
    base = tiny_run.config('nowhere', pruning=False, hook=False)
    base.model.type = 'mmseg.DepthEstimator'
    with pytest.raises(TypeError, match='DepthEstimator'):
        configured('pfb', base)
