"""A compiled model is compiled for the counts of images it meets, and then no more."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mmpfb.errors import LocationError

from .architectures import SEGMENTORS
from .helpers import batch, build, pruned, total

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
def test_a_compiled_model_does_not_compile_per_iteration(mode):
    config, _ = SEGMENTORS['fcn-resnet']
    selector = {'type': 'PFB', 'num_centroids': 4}
    model = build(pruned(config, mode=mode, ratio=0.3, selector=selector)).train()
    torch._dynamo.reset()
    counter = CompileCounter()
    # As MMEngine's runner does with `compile=True`.
    model.forward = torch.compile(model.forward, backend=counter)
    frames, kept = [], set()
    for seed in range(8):
        # 3.5 images stay: three and four in turn.
        loss = total(model(*batch(size=5, side=32, seed=seed), mode='loss'))
        loss.backward()
        frames.append(counter.frame_count)
        kept.add(len(model.pruner.last_kept or []))
    assert kept == {0, 3, 4}
    assert frames[0] > 0
    assert frames[3] == frames[-1], frames


def test_the_scoring_step_compiles_once_for_a_batch_size():
    from mmpfb.core.estimator import DensityEstimator

    torch._dynamo.reset()
    estimator = DensityEstimator(num_centroids=8, dim=6)
    estimator.update(torch.randn(8, 6))
    counter = CompileCounter()

    def step(features):
        density = estimator.log_density(features)
        estimator.update(features)
        return density

    compiled = torch.compile(step, backend=counter)
    frames = []
    for _ in range(5):
        compiled(torch.randn(5, 6))
        frames.append(counter.frame_count)
    assert frames[0] > 0
    assert frames[1] == frames[-1], frames


def test_compiled_code_of_a_model_without_the_cut_is_noticed():
    config, _ = SEGMENTORS['fcn-resnet']
    selector = {'type': 'PFB', 'num_centroids': 4}
    torch._dynamo.reset()

    def step(mode, seed):
        model = build(pruned(config, mode=mode, ratio=0.5, selector=selector)).train()
        model.forward = torch.compile(model.forward, backend='eager')
        for number in range(2):
            total(model(*batch(size=4, side=32, seed=seed + number), mode='loss'))
        return model.pruner

    assert step('rescore', seed=0).images_kept == 4 + 2
    with pytest.raises(LocationError, match='torch._dynamo.reset'):
        step('reuse', seed=2)
    torch._dynamo.reset()
    assert step('reuse', seed=2).images_kept == 4 + 2
