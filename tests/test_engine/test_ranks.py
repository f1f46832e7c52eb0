"""Two processes train together: what they share, what differs, and how they resume."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from mmpfb.engine.unwrapped import unwrapped_model
from tests.ranks import run_on_ranks

from .resumable_run import resumable_config

ITERATIONS, KILLED_AT = 12, 7


class Record(Hook):
    """What a rank was given, kept and learned in every iteration."""

    priority = 'LOWEST'

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.names, self.kept, self.centroids = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pruner = unwrapped_model(runner).pruner
        self.names.append([sample.img_path for sample in data_batch['data_samples']])
        self.kept.append(pruner.last_kept)
        estimator = pruner.selector.estimator
        self.centroids.append(estimator.centroids.clone() if estimator.ready else None)
        if runner.iter == self.stop_at:
            raise KeyboardInterrupt


def settings(folder, max_iters=ITERATIONS, **options):
    cfg = resumable_config(
        folder, max_iters=max_iters, interval=2, hook=dict(begin=0.0, end=1.0), **options
    )
    # The host gives every rank a seed of its own then.
    cfg.randomness = dict(seed=1, diff_rank_seed=True)
    cfg.launcher = 'pytorch' if torch.distributed.is_initialized() else 'none'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
    )
    return cfg


def trained(cfg, stop_at=None):
    runner = Runner.from_cfg(cfg)
    record = Record(stop_at)
    runner.register_hook(record)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop_at is not None
    weights = unwrapped_model(runner).state_dict()
    return {
        'names': record.names,
        'kept': record.kept,
        'centroids': record.centroids,
        'weights': {key: value.clone() for key, value in weights.items()},
        'state': unwrapped_model(runner).pruner.state_dict(),
        'wrapped': isinstance(runner.model, DistributedDataParallel),
    }


def on_each_rank(folder):
    folder = Path(folder)
    records = {
        'whole': trained(settings(folder / 'whole')),
        'killed': trained(settings(folder / 'parts'), stop_at=KILLED_AT),
        'resumed': trained(settings(folder / 'parts', resume=True)),
    }
    # A checkpoint of one process, made before by the parent.
    cfg = settings(folder / 'from_one', max_iters=9, resume=True)
    cfg.load_from = str(folder / 'one' / 'iter_6.pth')
    cfg.model_wrapper_cfg.find_unused_parameters = True
    records['from_one'] = trained(cfg)
    records['gradients'] = gradients_of_kept_images(get_rank())
    return records


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('ranks')


@pytest.fixture(scope='module')
def ranks(folder):
    trained(settings(folder / 'one', max_iters=6))
    return run_on_ranks(on_each_rank, 2, str(folder))


def log_of(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


pytestmark = pytest.mark.slow


def test_ranks_hold_one_estimate_and_choose_by_themselves(ranks):
    left, right = (rank['whole'] for rank in ranks)
    assert left['wrapped'] and right['wrapped']
    for one, other in zip(left['centroids'], right['centroids'], strict=True):
        assert torch.equal(one, other)
    assert all(
        torch.equal(left['weights'][key], right['weights'][key])
        for key in left['weights']
        if 'running' not in key  # batch normalisation is each rank's own
    )
    for one, other in zip(left['names'], right['names'], strict=True):
        assert not set(one) & set(other)
    # 8 centroids: those of the first batches of both.
    assert left['kept'][0] is None and right['kept'][0] is None
    counts = [[len(kept) for kept in side['kept'][1:]] for side in (left, right)]
    assert counts[0] == counts[1] == [2] * (ITERATIONS - 1)
    assert left['kept'] != right['kept']
    assert left['state']['seed'] == right['state']['seed'] == 1
    for side in (left, right):
        state = side['state']
        assert (state['images_seen'], state['images_kept']) == (96, 8 + 4 * 11)


def test_two_ranks_resume_exactly(ranks):
    for rank in ranks:
        whole, resumed = rank['whole'], rank['resumed']
        # The last checkpoint before iteration 7 was killed holds 6 or 8 iterations.
        done = ITERATIONS - len(resumed['kept'])
        assert done in (6, 8)
        assert resumed['names'] == whole['names'][done:]
        assert resumed['kept'] == whole['kept'][done:]
        assert torch.equal(resumed['centroids'][-1], whole['centroids'][-1])
    # Batch normalisation statistics are saved by the first rank; its weights are those of both.
    for key, value in ranks[0]['whole']['weights'].items():
        assert torch.equal(value, ranks[0]['resumed']['weights'][key]), key


def test_one_process_goes_on_where_two_stopped(ranks, folder):
    cfg = settings(folder / 'to_one', max_iters=ITERATIONS + 2, resume=True)
    cfg.load_from = str(folder / 'whole' / f'iter_{ITERATIONS}.pth')
    state = trained(cfg)['state']
    assert 'saved by 2 processes and goes on with 1 process.' in log_of(folder / 'to_one')
    assert (state['iteration'], state['images_seen']) == (ITERATIONS + 2, 96 + 8)


def test_two_processes_go_on_where_one_stopped(ranks, folder):
    left, right = (rank['from_one'] for rank in ranks)
    assert 'saved by 1 process and goes on with 2 processes.' in log_of(folder / 'from_one')
    assert (left['state']['iteration'], left['state']['images_seen']) == (9, 24 + 24)
    assert torch.equal(left['centroids'][-1], right['centroids'][-1])


BATCH = 4


def gradients_of_kept_images(rank):
    """Gradients of DDP after one pruned step, and the numbers of the images kept by this rank."""
    model, images, samples = prepared(2 * BATCH)
    model.pruner.selector.observe(torch.randn(8, 32, generator=seeded(3)))
    own = slice(rank * BATCH, (rank + 1) * BATCH)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    losses = wrapped(images[own], samples[own], mode='loss')
    model.parse_losses(losses)[0].backward()
    kept = [rank * BATCH + index for index in model.pruner.last_kept]
    return kept, {name: parameter.grad for name, parameter in model.named_parameters()}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def prepared(num_images):
    """A model without batch normalisation, which would mix the images of a rank."""
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    cfg = settings('unused').model
    groups = dict(type='GN', num_groups=4)
    cfg.decode_head.update(norm_cfg=groups, dropout_ratio=0.0)
    cfg.auxiliary_head.update(norm_cfg=groups)
    cfg.backbone.norm_cfg = groups
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg)).train()
    images = torch.rand(num_images, 3, 32, 32, generator=seeded(1))
    labels = torch.randint(0, 3, (num_images, 1, 32, 32), generator=seeded(2))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]
    return model, images, samples


def test_gradients_equal_those_of_one_process_on_all_kept_images(ranks):
    kept = [number for rank in ranks for number in rank['gradients'][0]]
    assert len(kept) == BATCH
    model, images, samples = prepared(2 * BATCH)
    model.pruner.current_ratio = 0.0
    losses = model(images[kept], [samples[index] for index in kept], mode='loss')
    model.parse_losses(losses)[0].backward()
    for rank in ranks:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                rank['gradients'][1][name], parameter.grad, rtol=1e-4, atol=1e-6
            )
