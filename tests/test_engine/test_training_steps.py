"""Steps that are measured are those of a training, but for the learning rate."""

import copy

import pytest
import torch

from mmpfb.engine.training_steps import TrainingSteps
from mmpfb.pruner import Phase

from ..test_models.architectures import SEGMENTORS
from ..test_models.helpers import batch, build, pruned

OPTIMIZER = {
    'type': 'OptimWrapper',
    'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 1e-4},
}
PFB = {'type': 'PFB', 'num_centroids': 8}


def model_of(**pruning):
    config, _ = SEGMENTORS['deeplabv3-resnet']
    preprocessor = {'type': 'SegDataPreProcessor', 'size': (64, 64)}
    return build({**pruned(config, **pruning), 'data_preprocessor': preprocessor}).train()


def batch_of(size):
    images, samples = batch(size)
    return {'inputs': list(images), 'data_samples': samples}


@pytest.fixture(params=['reuse', 'rescore'])
def mode(request):
    return request.param


def test_each_step_retains_the_count_asked_for(mode):
    steps = TrainingSteps(model_of(mode=mode, selector=PFB), OPTIMIZER, batch_of(5))
    pruner = steps.model.pruner
    for count in (2, 3, 3, 4, 2, 5, 3):
        before = pruner.images_kept
        steps.retaining(count)
        assert pruner.images_kept - before == count


def test_the_unpruned_step_trains_on_all_and_scores_none():
    steps = TrainingSteps(model_of(selector=PFB), OPTIMIZER, batch_of(4))
    steps.retaining(2)
    steps.model.pruner.choose = None  # Would fail if it were asked.
    before = steps.model.pruner.images_kept
    steps.unpruned()
    assert steps.model.pruner.images_kept - before == 4
    assert steps.model.pruner.last_kept is None


def test_weights_stay_although_gradients_reach_them(mode):
    model = model_of(mode=mode)
    before = copy.deepcopy(dict(model.named_parameters()))
    steps = TrainingSteps(model, OPTIMIZER, batch_of(4))
    steps.unpruned()
    steps.retaining(2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    # Momentum tells that there were gradients and that the optimiser ran.
    momenta = list(steps.tensors())[len(before) + len(list(model.buffers())) :]
    assert len(momenta) == len(before)
    assert sum(bool(momentum.any()) for momentum in momenta) > len(before) / 2


def test_every_step_runs_the_optimiser():
    steps = TrainingSteps(model_of(), {**OPTIMIZER, 'accumulative_counts': 4}, batch_of(4))
    calls = []
    steps._optimizer.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    steps.unpruned()
    steps.retaining(2)
    assert len(calls) == 2


@pytest.mark.parametrize('size', [3, 8, 20])
def test_the_selector_is_ready(size):
    steps = TrainingSteps(model_of(selector=PFB), OPTIMIZER, batch_of(size))
    assert steps.model.pruner.selector.ready
    assert steps.model.pruner.iteration == -(-8 // size)


def test_a_selector_without_features_is_tried_as_well(mode):
    steps = TrainingSteps(model_of(mode=mode), OPTIMIZER, batch_of(4))
    assert steps.model.pruner.iteration == 1


def test_another_count_than_asked_for_is_an_error():
    steps = TrainingSteps(model_of(min_keep=3), OPTIMIZER, batch_of(4))
    with pytest.raises(RuntimeError, match='retains 2 of 4 images, but it retained 3'):
        steps.retaining(2)


def test_images_that_cannot_be_scored_are_found_at_once():
    model = model_of(mode='rescore', score_scale=0.1, selector=PFB)
    with pytest.raises(ValueError, match='use a `score_scale` of at least'):
        TrainingSteps(model, OPTIMIZER, batch_of(4))


def test_features_that_are_not_finite_are_an_error():
    model = model_of(selector=PFB)
    with torch.no_grad():
        model.backbone.layer1[0].conv1.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match='PFB still waits for 8 images .* not finite'):
        TrainingSteps(model, OPTIMIZER, batch_of(4))
    assert model.pruner.phase is Phase.PRUNE
