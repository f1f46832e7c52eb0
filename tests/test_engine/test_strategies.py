"""The runner with strategies: which of them are refused, and that the plain one works."""

import pytest
import torch
from mmengine.runner._flexible_runner import FlexibleRunner

from mmpfb.engine import ImageLossesHook, PruningScheduleHook

from .resumable_run import resumable_config


class Runner:
    def __init__(self, name):
        # A subclass is refused as well.
        self.strategy = type('Own', (type(name, (), {}),), {})()


@pytest.mark.parametrize('hook', [PruningScheduleHook, ImageLossesHook])
@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('DeepSpeedStrategy', 'would silently lose the state of pruning'),
        ('ColossalAIStrategy', 'would silently lose the state of pruning'),
        ('FSDPStrategy', 'no run with sharded weights was ever tested'),
    ],
)
def test_strategies_that_would_go_wrong_are_refused(hook, name, reason):
    with pytest.raises(ValueError, match=f'got {name}: .*{reason}.*Use the usual Runner'):
        hook().before_run(Runner(name))


def test_other_strategies_are_not():
    PruningScheduleHook().before_run(Runner('DDPStrategy'))


def test_a_flexible_runner_trains_and_resumes(tmp_path):
    def train(max_iters, resume=False):
        cfg = resumable_config(tmp_path, max_iters=max_iters, resume=resume)
        cfg.env_cfg = dict()
        cfg.strategy = dict(type='SingleDeviceStrategy')
        runner = FlexibleRunner.from_cfg(cfg)
        runner.train()
        return runner.model.pruner

    first = train(6)
    saved = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['mmpfb']['selector']
    assert torch.equal(saved['centroids'], first.selector.estimator.centroids)
    resumed = train(8, resume=True)
    assert (first.iteration, resumed.iteration) == (6, 8)
