"""A shortened run goes through the same learning rates, at the same shares of its length."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmpfb.engine.run_length import iterations_of, with_iterations

EPOCHS, PER_EPOCH = 20, 12
ITERATIONS = EPOCHS * PER_EPOCH


def config(schedulers=None, *, by_epoch=True, **settings):
    loop = (
        dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS)
        if by_epoch
        else dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=60)
    )
    return Config(dict(dict(
        train_cfg=loop,
        train_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=True)),
        param_scheduler=schedulers,
    ), **copy.deepcopy(settings)))


def rates(schedulers, iterations):
    """The learning rate of every iteration, by the host's own schedulers."""
    wrapper = build_optim_wrapper(
        nn.Linear(1, 1), dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.5))
    )
    built = [
        PARAM_SCHEDULERS.build(
            copy.deepcopy(dict(one)),
            default_args=dict(optimizer=wrapper, epoch_length=PER_EPOCH),
        )
        for one in schedulers
    ]
    used = []
    for iteration in range(1, iterations + 1):
        used.append(wrapper.param_groups[0]['lr'])
        wrapper.optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or iteration % PER_EPOCH == 0:
                scheduler.step()
    return torch.tensor(used)


def epochs(kind, **settings):
    return dict(type=kind, by_epoch=True, **settings)


def converted(kind, **settings):
    return epochs(kind, convert_to_iter_based=True, **settings)


def iterations(kind, **settings):
    return dict(type=kind, by_epoch=False, **settings)


# The host lets these reach their end one step early, which is more of a shorter run.
LINEAR, POLY = 0.04, 0.01

SCHEDULES = {
    'poly': ([iterations('PolyLR', eta_min=1e-4, power=0.9, begin=0, end=240)], POLY),
    'warm-up and poly': (
        [iterations('LinearLR', start_factor=0.01, begin=0, end=60),
         iterations('PolyLR', eta_min=0.0, power=0.9, begin=60, end=240)], LINEAR),
    'milestones': ([iterations('MultiStepLR', milestones=[80, 200], gamma=0.1)], 0),
    'steps': ([iterations('StepLR', step_size=60, gamma=0.5)], 0),
    'cosine': ([iterations('CosineAnnealingLR', T_max=240, eta_min=0.001)], 1e-6),
    'cosine without T_max': ([iterations('CosineAnnealingLR', begin=40, end=240)], 1e-6),
    'constant': ([iterations('ConstantLR', factor=0.1, begin=20)], 0),
    'exponential': ([iterations('ExponentialLR', gamma=0.99)], 1e-6),
    'restarts': (
        [iterations('CosineRestartLR', periods=[80, 160], restart_weights=[1, 0.5], eta_min=0)],
        1e-6),
    'one cycle': ([iterations('OneCycleLR', eta_max=0.1, total_steps=240)], LINEAR),
    'converted one cycle': ([converted('OneCycleLR', eta_max=0.1, total_steps=EPOCHS)], LINEAR),
    'converted warm-up and cosine': (
        [converted('LinearLR', start_factor=0.01, begin=0, end=5),
         converted('CosineAnnealingLR', T_max=15, begin=5, end=20)], LINEAR),
    'converted poly': ([converted('PolyLR', eta_min=0, power=1, begin=0, end=20)], POLY),
    'epochs, cosine': ([epochs('CosineAnnealingLR', T_max=20)], 1e-6),
    'epochs, milestones': ([epochs('MultiStepLR', milestones=[10, 15], gamma=0.1)], 0),
    'epochs, exponential': ([epochs('ExponentialLR', gamma=0.8)], 1e-6),
    'epochs by default': ([dict(type='StepLR', step_size=5, gamma=0.1)], 0),
}


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('length', [120, 60])
def test_learning_rates_come_at_the_same_shares_of_the_run(name, length):
    schedulers, tolerance = SCHEDULES[name]
    by_epoch = schedulers[0].get('by_epoch', True)
    changed = with_iterations(config(schedulers, by_epoch=by_epoch), length, PER_EPOCH)
    assert changed.train_cfg.max_iters == length

    whole = rates(schedulers, ITERATIONS)
    short = rates(changed.param_scheduler, length)
    # Where a schedule changes once an epoch, the new one goes on in between.
    in_steps = by_epoch and 'convert_to_iter_based' not in schedulers[0]
    same = slice(None, None, PER_EPOCH if in_steps else ITERATIONS // length)
    step = PER_EPOCH * length // ITERATIONS if in_steps else 1
    assert whole.max() > 2 * whole.min()
    scale = ITERATIONS / length / 2
    torch.testing.assert_close(
        short[::step], whole[same], rtol=1e-5, atol=0.1 * tolerance * scale
    )
    if not in_steps:
        assert short[-1].item() == pytest.approx(whole[-1].item(), abs=0.1 * 0.04)


def test_one_schedule_need_not_be_in_a_list():
    changed = with_iterations(
        config(iterations('StepLR', step_size=60), by_epoch=False), 120, PER_EPOCH
    )
    assert changed.param_scheduler == [iterations('StepLR', step_size=30)]


def test_a_run_without_schedule_stays_without():
    assert with_iterations(config(), 7, PER_EPOCH).param_scheduler == []


@pytest.mark.parametrize('kind', ['LinearLR', 'PolyLR', 'CosineAnnealingLR', 'ConstantLR'])
def test_a_warm_up_that_would_vanish_keeps_one_iteration(kind):
    schedulers = [
        iterations(kind, begin=0, end=3),
        iterations('MultiStepLR', begin=3, end=240, milestones=[3]),
    ]
    changed = with_iterations(config(schedulers, by_epoch=False), 10, PER_EPOCH)
    assert [(one.begin, one.end) for one in changed.param_scheduler] == [(0, 1), (0, 10)]
    assert torch.isfinite(rates(changed.param_scheduler, 10)).all()


def test_intervals_of_a_run_in_epochs():
    before = config(
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=5),
            checkpoint=dict(type='CheckpointHook', interval=5, save_begin=10),
        ),
        log_processor=dict(window_size=3),
    )
    before.train_cfg.update(val_interval=4, val_begin=2)
    given = copy.deepcopy(before)
    changed = with_iterations(before, 120, PER_EPOCH)

    assert before.to_dict() == given.to_dict()
    # An epoch is worth six iterations now.
    assert changed.train_cfg == dict(
        type='IterBasedTrainLoop', max_iters=120, val_interval=24, val_begin=12
    )
    assert changed.default_hooks.checkpoint == dict(
        type='CheckpointHook', interval=30, save_begin=60, by_epoch=False
    )
    assert changed.default_hooks.logger.log_metric_by_epoch is False
    assert changed.log_processor == dict(window_size=3, by_epoch=False)
    assert changed.train_dataloader.sampler == dict(type='InfiniteSampler', shuffle=True)


def test_intervals_of_a_run_in_iterations():
    before = config(
        by_epoch=False,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=50)),
    )
    changed = with_iterations(before, 24, PER_EPOCH)
    assert changed.train_cfg == dict(type='IterBasedTrainLoop', max_iters=24, val_interval=6)
    assert changed.default_hooks.checkpoint.interval == 5
    assert changed.train_dataloader == before.train_dataloader
    assert 'log_processor' not in changed


@pytest.mark.parametrize('interval', [{}, {'interval': -1}])
def test_checkpoints_only_at_the_end_stay_so(interval):
    hook = dict(type='CheckpointHook', **interval)
    changed = with_iterations(config(default_hooks=dict(checkpoint=hook)), 24, PER_EPOCH)
    assert changed.default_hooks.checkpoint == dict(hook, by_epoch=False)


@pytest.mark.parametrize('sampler', [
    dict(type='InfiniteSampler', shuffle=False), dict(type='mmpfb.InfoBatch', ratio=0.5),
])
def test_samplers_without_end_are_left_alone(sampler):
    changed = with_iterations(config(train_dataloader=dict(sampler=sampler)), 24, PER_EPOCH)
    assert changed.train_dataloader.sampler == sampler


def test_length_of_a_run():
    assert iterations_of(config(), PER_EPOCH) == ITERATIONS
    assert iterations_of(config(by_epoch=False), 1) == ITERATIONS
    short_form = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1)))
    assert iterations_of(short_form, 5) == 15


def test_refusals():
    plateau = config([dict(type='ReduceOnPlateauLR', monitor='loss')])
    with pytest.raises(ValueError, match='fixed length, but ReduceOnPlateauLR follows a metric'):
        with_iterations(plateau, 24, PER_EPOCH)
    repeated = config(train_dataloader=dict(sampler=dict(type='RepeatAugSampler')))
    with pytest.raises(ValueError, match="'InfiniteSampler', but got 'RepeatAugSampler'"):
        with_iterations(repeated, 24, PER_EPOCH)
    with pytest.raises(ValueError, match='`iterations`'):
        with_iterations(config(), 0, PER_EPOCH)
    with pytest.raises(ValueError, match='`iterations_per_epoch`'):
        with_iterations(config(), 24, 0)
