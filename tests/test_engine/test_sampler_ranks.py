"""Two processes share a sampler's losses, are interrupted, and go on with the same images."""

from pathlib import Path

import pytest

from tests.ranks import run_on_ranks

from .numbers_run import config, run

SAMPLERS = {'InfoBatch': {}, 'UCB': {'ratio': 0.3}, 'UniformDynamic': {'ratio': 0.3}}
# 20 images, two ranks, batches of three: a pass takes at most four iterations.
ITERATIONS, KILLED_AFTER = 14, 8


def settings(folder, sampler, resume=False):
    cfg = config(
        folder, sampler, length=ITERATIONS, by_epoch=False, lr=0.01, **SAMPLERS[sampler]
    )
    cfg.launcher, cfg.resume = 'pytorch', resume
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg.experiment_name = f'{folder}-{resume}'.replace('/', '-')
    return cfg


def on_each_rank(folder):
    records = {}
    for sampler in SAMPLERS:
        places = [Path(folder, sampler, name) for name in ('whole', 'parts')]
        runs = {
            'whole': run(settings(places[0], sampler)),
            'killed': run(settings(places[1], sampler), KILLED_AFTER),
            'resumed': run(settings(places[1], sampler, resume=True)),
        }
        records[sampler] = {
            name: (
                recorder.images,
                recorder.objectives,
                runner.model.module.factor.item(),
                runner.train_dataloader.sampler.lengths,
            )
            for name, (runner, recorder) in runs.items()
        }
    return records


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_ranks(on_each_rank, 2, str(tmp_path_factory.mktemp('ranks')))


pytestmark = pytest.mark.slow


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_two_ranks_resume_with_the_same_images_and_weights(ranks, sampler):
    for rank in ranks:
        images, objectives, factor, lengths = rank[sampler]['whole']
        again, objectives_again, factor_again, _ = rank[sampler]['resumed']
        done = ITERATIONS - len(again)
        assert KILLED_AFTER - 1 <= done <= KILLED_AFTER
        assert again == images[done:]
        assert objectives_again == objectives[done:]
        assert factor_again == factor
        assert min(lengths) < 20
    left, right = (rank[sampler]['whole'] for rank in ranks)
    assert left[0] != right[0]
    assert left[3] == right[3]
    assert left[2] == right[2]
