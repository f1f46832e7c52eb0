"""A long training with faults at random places: nothing is lost, nothing piles up, nothing breaks.

The places are drawn from seeds, so that every run of a test meets the same faults.
"""

import gc
import math
import os
import random
import resource
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mmpfb.pruner import Phase

from .test_life_of_a_run import (
    LARGEST_BATCH,
    MODES,
    RATIO,
    SELECTORS,
    Fault,
    Interruption,
    Schedule,
    WatchedRun,
    failing,
)

STEPS = 2000
SCHEDULE = Schedule(begin=100, end=1800, length=STEPS, rising=0, interval=50)
# By then all is there that is made once: momentum buffers, caches, logged values.
SETTLED = 500
# What differs from step to step, such as gradients or the record of the last choice.
MORE_TENSORS, MORE_OBJECTS, MORE_BYTES = 15, 300, 32 * 2**20
FAULTY_PLACES = (
    'backbone.layer1',
    'backbone.layer2',
    'backbone.layer3',
    'decode_head.conv_seg',
    'decode_head.loss_decode',
)


class BrokenFile(OSError):
    """An image cannot be read."""


class FaultyLoader:
    """Batches of all sizes, now and then broken, without labels, or not to be had at all."""

    def __init__(self, run, seed):
        self.run = run
        self.random = random.Random(seed)
        self.num_failures = self.num_broken = self.num_without_labels = 0

    def __next__(self):
        draw = self.random
        if draw.random() < 0.02:
            self.num_failures += 1
            raise BrokenFile
        size = LARGEST_BATCH if draw.random() < 0.7 else draw.randint(1, LARGEST_BATCH)
        kind = draw.choices(('plain', 'broken', 'all broken', 'no labels'), (90, 4, 2, 4))[0]
        broken = range(size) if kind == 'all broken' else ()
        if kind == 'broken':
            broken = draw.sample(range(size), draw.randint(1, size))
        self.num_broken += len(broken)
        self.num_without_labels += kind == 'no labels'
        value = draw.choice((math.nan, math.inf))
        return self.run.new_batch(size, broken, broken_value=value, ignored=kind == 'no labels')


class Footprint(NamedTuple):
    """What the process holds: tensors, other objects that can refer to some, and memory."""

    tensors: int
    objects: int
    resident_bytes: int

    @classmethod
    def now(cls):
        gc.collect()
        objects = gc.get_objects()
        # Not `isinstance`, which would wake up modules that are loaded when they are used.
        tensors = sum(issubclass(type(item), torch.Tensor) for item in objects)
        return cls(tensors, len(objects), resident_bytes())


def resident_bytes():
    pages = Path('/proc/self/statm')
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    # Outside of Linux the peak, which is as good if nothing else has run before.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('selector', sorted(SELECTORS))
def test_two_thousand_steps_with_faults(selector, mode):
    run = WatchedRun(selector, mode, SCHEDULE, auxiliary=False)
    optimizer = torch.optim.SGD(run.model.parameters(), lr=0.01, momentum=0.9)
    loader = FaultyLoader(run, seed=f'batches of {selector} {mode}')
    draw = random.Random(f'faults of {selector} {mode}')
    num_failed = seen_while_pruning = kept_while_pruning = 0
    settled = None
    while run.runner.iter < STEPS:
        try:
            batch = next(loader)
        except BrokenFile:
            continue
        fault = None
        if draw.random() < 0.04:
            error = draw.choice((Fault, Interruption))
            fault = failing(run.model, draw.choice(FAULTY_PLACES), draw.choice((0, 0, 1)), error)
        seen, kept = run.seen, run.kept
        pruning = run.phase is Phase.PRUNE and run.ready
        num_failed += not run.train(batch, fault, optimizer)
        if pruning:
            seen_while_pruning += run.seen - seen
            kept_while_pruning += run.kept - kept
        run.runner.iter += 1
        if run.runner.iter % 50 == 0:
            run.check()
            run.check_gate(len(batch.numbers))
        if run.runner.iter == SETTLED:
            settled = Footprint.now()

    # The faults did happen.
    assert num_failed > 30
    assert loader.num_failures > 20
    assert loader.num_broken > 200
    assert loader.num_without_labels > 40

    # All images that were loaded were seen, but for those of steps that failed before the choice.
    pruner = run.model.pruner
    assert pruner.images_seen + run.lost == run.num_images
    assert run.lost <= num_failed * LARGEST_BATCH
    assert pruner.images_seen == run.kept + run.pruned
    assert kept_while_pruning == pytest.approx((1 - RATIO) * seen_while_pruning, rel=0.02)

    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())
    for state in optimizer.state.values():
        assert torch.isfinite(state['momentum_buffer']).all()

    end = Footprint.now()
    assert end.tensors <= settled.tensors + MORE_TENSORS
    assert end.objects <= settled.objects + MORE_OBJECTS
    assert end.resident_bytes <= settled.resident_bytes + MORE_BYTES
