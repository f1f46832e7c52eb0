"""Two real processes: disjoint images, equal plans, equal scores."""

import pytest
import torch
from torch import distributed as dist

from mmpfb.samplers import UCB, InfoBatch
from tests.ranks import run_on_ranks

from .methods import loss_of

BATCH_SIZE = 4


def train():
    rank = dist.get_rank()
    record = {}
    for sampler in (InfoBatch(range(21)), UCB(range(21), 0.3, infinite=True)):
        sampler.set_run_length(1000, by='index' if sampler.infinite else 'pass')
        batches = []

        def step(images, number, sampler=sampler, batches=batches):
            images = torch.tensor(images)
            sampler.weights_at(number * BATCH_SIZE, images)
            # Losses differ between ranks, and each rank knows only its own.
            losses = loss_of(images, number) + rank
            gathered = [[torch.empty_like(t) for _ in range(2)] for t in (images, losses)]
            dist.all_gather(gathered[0], images)
            dist.all_gather(gathered[1], losses)
            sampler.observe(torch.cat(gathered[0]), torch.cat(gathered[1]))
            batches.append(images.tolist())

        if sampler.infinite:
            stream = iter(sampler)
            for number in range(15):
                step([next(stream) for _ in range(BATCH_SIZE)], number)
        else:
            for epoch in range(4):
                sampler.set_epoch(epoch)
                indices = list(sampler)
                for number in range(0, len(indices), BATCH_SIZE):
                    step(indices[number : number + BATCH_SIZE], number)
        record[type(sampler).__name__] = {
            'rank': (sampler.rank, sampler.world_size),
            'seed': sampler.seed,
            'batches': batches,
            'lengths': sampler.lengths,
            'scores': {name: score.tolist() for name, score in sampler.scores().items()},
        }
    return record


@pytest.fixture(scope='module')
def records():
    return run_on_ranks(train, 2)


@pytest.mark.parametrize('name', ['InfoBatch', 'UCB'])
def test_ranks_agree_and_see_different_images(records, name):
    left, right = (record[name] for record in records)
    assert (left['rank'], right['rank']) == ((0, 2), (1, 2))
    # Nobody gave a seed: it was drawn by one rank for both.
    assert left['seed'] == right['seed']
    assert left['lengths'] == right['lengths']
    assert left['scores'] == right['scores']
    assert min(left['lengths']) < 21
    first = [sum(side['batches'], [])[:11] for side in (left, right)]
    assert len(set(first[0]) & set(first[1])) == 1  # 21 images: one repeats
    assert set(first[0]) | set(first[1]) == set(range(21))
