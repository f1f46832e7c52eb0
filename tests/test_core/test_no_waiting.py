"""Choosing the images asks nothing of the device that the host would have to wait for.

Fake tensors have a device and no values: whatever needs a value on the host raises an error on
them, and copies between devices can be watched, without a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmpfb.core.estimator import DensityEstimator
from mmpfb.core.pooling import pool_features
from mmpfb.core.randomness import generator_for
from mmpfb.pruner import BatchPruner
from mmpfb.selectors import PFB, Uniform


class Copies(TorchDispatchMode):
    """Writes down the copies between devices that block the host."""

    def __init__(self):
        super().__init__()
        self.blocking = []
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Views and questions about the device launch nothing.
        self.operations += func.namespace == 'aten' and not func.is_view
        source = next((arg.device for arg in args if isinstance(arg, torch.Tensor)), None)
        target = kwargs.get('device')
        crosses = source is not None and target is not None and torch.device(target) != source
        if crosses and not kwargs.get('non_blocking'):
            self.blocking.append((func, source, target))
        return func(*args, **kwargs)


def on_fake_gpu(action):
    """Run ``action(device)`` on fake tensors of a GPU and return the copies."""
    with FakeTensorMode(), Copies() as copies:
        action('cuda')
    return copies


def ready_selector(device):
    selector = PFB(num_centroids=8, dim=6)
    selector.prepare(6)
    estimator = DensityEstimator(8, 6)
    estimator._centroids = torch.randn(8, 6, device=device)
    estimator._counts = torch.ones(8, dtype=torch.int64, device=device)
    estimator._num_collected = 8
    selector.estimator = estimator
    return selector


@pytest.mark.parametrize('kind', ['PFB', 'Uniform'])
def test_choosing_and_learning_never_wait(kind):
    def choose(device):
        selector = ready_selector(device) if kind == 'PFB' else Uniform()
        features = pool_features(torch.randn(5, 6, 4, 4, device=device))
        keep = selector.select(features, 3, generator_for(0)).keep
        assert keep.device.type == 'cuda'
        selector.observe(features.index_select(0, keep))

    assert on_fake_gpu(choose).blocking == []


def test_the_books_never_wait(monkeypatch):
    # There is no stream to record an event on; the copy itself is watched.
    monkeypatch.setattr('mmpfb.pruner.HostCopy', lambda keep: keep.to('cpu', non_blocking=True))

    class NoTime:
        def measure(self, device):
            return torch.no_grad()

    def choose(device):
        pruner = BatchPruner(ready_selector(device), 0.5, 1)
        pruner.scoring_time = NoTime()
        for _ in range(2):
            assert pruner.choose(torch.randn(6, 6, 4, 4, device=device), 6) is not None

    assert on_fake_gpu(choose).blocking == []


def test_what_waits_is_noticed():
    copies = on_fake_gpu(lambda device: torch.rand(3).to(device))
    assert len(copies.blocking) == 1
    with pytest.raises(DataDependentOutputException):
        on_fake_gpu(lambda device: torch.ones(1, device=device).item())


def test_a_scoring_step_is_few_operations():
    """Every operation is a launch on a GPU, some five microseconds."""

    def choose(device):
        selector = ready_selector(device)
        features = pool_features(torch.randn(5, 6, 4, 4, device=device))
        selector.observe(
            features.index_select(0, selector.select(features, 3, generator_for(0)).keep)
        )

    assert 40 < on_fake_gpu(choose).operations < 90
