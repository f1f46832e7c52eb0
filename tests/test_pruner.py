"""The books of the pruner: phases, counts, repeatable choices."""

import pytest
import torch

from mmpfb.core.selection import Selection
from mmpfb.errors import EstimatorStateError
from mmpfb.pruner import BatchPruner, Mean, Phase
from mmpfb.selectors import PFB, Needs, Selector, Uniform


def features(size=8, seed=0):
    return torch.randn(size, 6, 4, 4, generator=torch.Generator().manual_seed(seed))


def pruner(selector=None, **settings):
    return BatchPruner(selector or Uniform(), **{'ratio': 0.5, 'min_keep': 1, **settings})


def test_every_image_seen_is_either_kept_or_pruned():
    subject = pruner(PFB(num_centroids=8), ratio=0.3)
    pruned = 0
    for step in range(50):
        size = 1 + step % 7
        subject.phase = list(Phase)[step % 3]
        if subject.phase is Phase.IDLE:
            subject.count_unscored(size)
            continue
        keep = subject.choose(features(size, step), size)
        pruned += 0 if keep is None else size - len(keep)
    assert pruned > 0
    assert subject.images_seen == subject.images_kept + pruned
    assert subject.iteration == 50


def test_the_same_seed_and_iteration_choose_the_same_images():
    first, second, other = pruner(seed=3), pruner(seed=3), pruner(seed=4)
    choices = [
        [subject.choose(features(), 8).tolist() for _ in range(6)]
        for subject in (first, second, other)
    ]
    assert choices[0] == choices[1]
    assert choices[0] != choices[2]
    assert choices[0][0] != choices[0][1]


def test_choosing_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    subject = pruner(PFB(num_centroids=8))
    for step in range(4):
        subject.choose(features(seed=step), 8)
    assert subject.iterations_pruned == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_only_retained_images_move_the_centroids():
    subject = pruner(PFB(num_centroids=8))
    subject.choose(features(), 8)
    before = subject.selector.estimator.counts.sum().item()
    keep = subject.choose(features(seed=1), 8)
    assert subject.selector.estimator.counts.sum().item() == before + len(keep)


def test_interval_metrics_start_anew():
    subject = pruner(PFB(num_centroids=8))
    for step in range(3):
        subject.choose(features(seed=step), 8)
    metrics = subject.take_interval_metrics()
    assert set(metrics) == {'centroids_in_use', 'random_share', 'scoring_ms'}
    assert set(subject.take_interval_metrics()) == {'centroids_in_use'}
    assert subject.random_share is not None


def test_half_precision_features_are_scored_in_float32_under_autocast():
    subject = pruner(PFB(num_centroids=8))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for step in range(2):
            subject.choose(features(seed=step).bfloat16(), 8)
    assert subject.selector.estimator.centroids.dtype == torch.float32


def test_a_selector_that_returns_loss_weights_is_refused():
    class Weighted(Selector):
        needs = Needs.NOTHING

        def select(self, features, num_retained, generator):
            return Selection(torch.arange(num_retained), weight=torch.ones(num_retained))

    with pytest.raises(NotImplementedError, match='Weighted returned loss weights'):
        pruner(Weighted()).choose(features(), 8)


@pytest.mark.parametrize('output', [None, (8, 8), {'x': torch.ones(8, 2)}])
def test_a_stage_output_without_a_tensor_is_refused(output):
    with pytest.raises(TypeError, match='stage output to be a tensor'):
        pruner(PFB()).choose(output, 8)


def test_features_that_are_not_floating_point_are_refused():
    with pytest.raises(TypeError, match='features to be floating point, but got torch.int64'):
        pruner(PFB()).choose(torch.ones(8, 4, dtype=torch.int64), 8)


def test_mean_of_nothing_is_none():
    mean = Mean()
    assert mean.value() is None
    mean.add(torch.tensor(1.0))
    mean.add(torch.tensor(2.0))
    assert mean.take() == 1.5
    assert mean.take() is None


def test_a_state_that_lacks_a_key_is_refused():
    state = pruner().state_dict()
    del state['budget']
    with pytest.raises(EstimatorStateError, match=r"but \['budget'\] are missing"):
        pruner().load_state_dict(state)


@pytest.mark.parametrize('ratio', [1e-7, 0.9999999])
def test_extreme_ratios_are_warned_about_without_failing(ratio):
    subject = pruner(ratio=ratio, min_keep=2)
    for step in range(3):
        subject.choose(features(seed=step), 8)
    assert subject.images_seen == 24
