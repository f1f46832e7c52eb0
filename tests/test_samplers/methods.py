"""One table of methods, and a training that consists of nothing but indices and losses."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from mmpfb.samplers import UCB, EpsilonGreedy, InfoBatch, StaticRandom, UniformDynamic

# A new method joins all tests that hold for every method by a row.
METHODS = [
    (InfoBatch, {}),
    (InfoBatch, {'threshold': 80, 'anneal': 0.5}),
    (UCB, {}),
    (UCB, {'period': 3, 'confidence': 2.0}),
    (EpsilonGreedy, {'epsilon': 0.3}),
    (EpsilonGreedy, {'epsilon': 0.5, 'period': 2}),
    (UniformDynamic, {}),
    (UniformDynamic, {'replacement': False}),
    (UniformDynamic, {'replacement': False, 'period': 2}),
    (StaticRandom, {}),
]
IDS = ['-'.join([cls.__name__, *(f'{k}={v}' for k, v in kw.items())]) for cls, kw in METHODS]
LONG_RUN = 10_000


def build(method, num_images=20, ratio=0.5, length=LONG_RUN, **settings):
    cls, arguments = method
    sampler = cls(range(num_images), ratio=ratio, seed=3, **arguments, **settings)
    sampler.set_run_length(length, by='index' if sampler.infinite else 'pass')
    return sampler


def loss_of(images, step):
    """Losses with ties that change from step to step."""
    return ((images * 7919 + step * 104729) % 13).float() / 4


@dataclass
class Training:
    """Consumes batches as a loop with workers that draw ahead would, and hands back losses.

    ``trace`` is what the training saw: images and weights of every batch.
    """

    sampler: Any
    batch_size: int = 3
    ahead: int = 0
    step: int = 0
    trace: list = field(default_factory=list)
    _drawn: deque = field(default_factory=deque)
    _indices: Any = None

    def draw(self):
        if self._indices is None:
            self._indices = iter(self.sampler)
        batch = [index for _, index in zip(range(self.batch_size), self._indices, strict=False)]
        if batch:
            self._drawn.append(batch)
        return bool(batch)

    def run(self, steps):
        """Train for some steps of an infinite sampler."""
        if self._indices is None:
            for _ in range(self.ahead):
                self.draw()
        for _ in range(steps):
            self.draw()
            self.train()
        return self

    def run_pass(self, epoch):
        """Train for one pass of a finite sampler."""
        self.sampler.set_epoch(epoch)
        self._indices = None
        while self.draw():
            pass
        while self._drawn:
            self.train()
        return self

    def train(self):
        images = torch.tensor(self._drawn.popleft())
        position = self.step * self.batch_size
        weights = self.sampler.weights_at(position, images)
        self.trace.append((images.tolist(), None if weights is None else weights.tolist()))
        self.sampler.observe(images, loss_of(images, self.step))
        self.step += 1


def assert_same_scores(left, right):
    left, right = left.scores(), right.scores()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, equal_nan=True)
