"""Losses reach the right images, weights the right losses, and runs go on where they stopped."""

import inspect
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, loops
from mmengine.runner import runner as runner_module
from torch import distributed as dist
from torch import multiprocessing
from torch.utils.data import BatchSampler

from mmpfb.engine import ImageLossesHook
from mmpfb.errors import ImageLossError
from mmpfb.registry import DATA_SAMPLERS
from mmpfb.samplers import EpochSampler, InfoBatch

from . import tiny_run
from .numbers_run import NumbersModel, config, run

METHODS = [
    ('InfoBatch', {}),
    ('InfoBatch', {'threshold': 80}),
    ('UCB', {'ratio': 0.4}),
    ('EpsilonGreedy', {'ratio': 0.4, 'epsilon': 0.3}),
    ('UniformDynamic', {'ratio': 0.4, 'replacement': False}),
    ('StaticRandom', {'ratio': 0.4}),
]
LOADING = [
    pytest.param(dict(by_epoch=True, length=4), id='epochs'),
    pytest.param(dict(by_epoch=False, length=30), id='iterations'),
    pytest.param(dict(by_epoch=True, length=3, num_workers=2), id='epochs-workers'),
    pytest.param(dict(by_epoch=False, length=30, num_workers=2), id='iterations-workers'),
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The host sleeps whenever a finite sampler ends, and asks compilers for their versions."""
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(runner_module, 'collect_env', dict)


def sampler_of(runner):
    return runner.train_dataloader.sampler


def log_text(work_dir):
    return '\n'.join(path.read_text() for path in Path(work_dir).rglob('*.log'))


@pytest.mark.parametrize('loading', LOADING)
@pytest.mark.parametrize('method', METHODS[:3], ids=str)
def test_losses_and_weights_are_those_of_the_images(tmp_path, monkeypatch, method, loading):
    plans = []
    plan_next = EpochSampler._plan_next

    def record(sampler):
        plan_next(sampler)
        plans.append(sampler._plans[max(sampler._plans)])

    monkeypatch.setattr(EpochSampler, '_plan_next', record)
    name, settings = method
    runner, recorder = run(config(tmp_path, name, **loading, **settings))
    (scores, *_) = sampler_of(runner).scores().values()
    assert scores.tolist() == list(range(20))
    # Every number of the stream, with its weight in the pass that it belongs to.
    numbers = [number for images in recorder.images for number in images]
    passes = [plan for plan in plans for _ in plan.images]
    weights = [
        1.0 if plan.weights is None else plan.weights[number].item()
        for number, plan in zip(numbers, passes, strict=False)
    ]
    assert len(weights) == len(numbers)
    assert (max(weights) > 1.5) is (name == 'InfoBatch')
    place = 0
    for images, objective in zip(recorder.images, recorder.objectives, strict=True):
        of_batch = weights[place : place + len(images)]
        place += len(images)
        expected = sum(n * w for n, w in zip(images, of_batch, strict=True)) / len(images)
        assert objective == pytest.approx(expected, rel=1e-5)


def test_joined_data_sets_whose_numbers_collide_are_told_apart_by_their_paths(tmp_path):
    parts = [dict(type='Numbers', length=9), dict(type='Numbers', length=11, first=9)]
    dataset = dict(type='ConcatDataset', datasets=parts)
    runner, _ = run(config(tmp_path, 'UCB', ratio=0.4, dataset=dataset))
    assert sampler_of(runner).scores()['mean'].tolist() == list(range(20))


def test_joined_data_sets_without_paths_are_refused(tmp_path):
    parts = [dict(type='Numbers', has_paths=False)] * 2
    cfg = config(tmp_path, dataset=dict(type='ConcatDataset', datasets=parts))
    with pytest.raises(ValueError, match='every image of joined data sets to have a name'):
        run(cfg)


def test_images_without_paths_go_by_their_number(tmp_path):
    dataset = dict(type='Numbers', has_paths=False)
    runner, _ = run(config(tmp_path, 'UCB', ratio=0.4, dataset=dataset))
    assert sampler_of(runner).scores()['mean'].tolist() == list(range(20))


@pytest.mark.parametrize('has_paths', [True, False])
def test_repeated_images_share_a_score(tmp_path, has_paths):
    inner = dict(type='Numbers', length=7, has_paths=has_paths)
    dataset = dict(type='RepeatDataset', dataset=inner, times=3)
    runner, recorder = run(config(tmp_path, 'UCB', ratio=0.4, dataset=dataset, length=2))
    sampler = sampler_of(runner)
    assert sampler.scores()['mean'].tolist() == list(range(7))
    assert sampler.lengths == (21, 15)
    second = [n for images in recorder.images[7:] for n in images]
    assert sorted(second) == sorted(list(range(2, 7)) * 3)


# Resuming


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('method', METHODS, ids=str)
@pytest.mark.parametrize('way', ['skip', 'replay'])
def test_an_interrupted_run_equals_a_whole_one(tmp_path, monkeypatch, method, num_workers, way):
    if method not in METHODS[1:2] and (num_workers or way == 'replay'):
        pytest.skip('one method stands for all: the rest is tested without a runner')
    if way == 'replay':
        monkeypatch.setattr(loops, '_InfiniteDataloaderIterator', EarlyIterator)
    name, settings = method
    common = dict(
        by_epoch=False, length=26, lr=1e-3, num_workers=num_workers, **settings
    )
    # Passes of 20 and fewer images in batches of 3: iteration 10 is in the middle of the second.
    whole, recorder = run(config(tmp_path / 'whole', name, **common))
    run(config(tmp_path / 'parts', name, **common), stop_after=11)
    cfg = config(tmp_path / 'parts', name, **common)
    cfg.resume, cfg.experiment_name = True, 'resumed'
    cfg.load_from = str(tmp_path / 'parts' / 'iter_10.pth')
    resumed, second = run(cfg)
    assert second.images == recorder.images[10:]
    assert second.objectives == recorder.objectives[10:]
    assert_same(resumed, whole)


class EarlyIterator:
    """Older MMEngine: workers draw before the checkpoint is loaded, and batches are replayed."""

    def __init__(self, dataloader):
        self._dataloader, self._epoch = dataloader, 0
        self._iterator = iter(dataloader)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._iterator)
        except StopIteration:
            self._epoch += 1
            self._dataloader.sampler.set_epoch(self._epoch)
            self._iterator = iter(self._dataloader)
            return next(self._iterator)

    def skip_iter(self, count):
        for _ in range(count):
            next(self)


def assert_same(left, right):
    assert sampler_of(left).lengths == sampler_of(right).lengths
    a, b = sampler_of(left).scores(), sampler_of(right).scores()
    for score in a:
        torch.testing.assert_close(a[score], b[score], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(left.model.factor, right.model.factor)


@pytest.mark.parametrize('method', METHODS[1:4], ids=str)
def test_an_interrupted_run_in_epochs_equals_a_whole_one(tmp_path, method):
    name, settings = method
    common = dict(length=5, lr=1e-3, **settings)
    whole, recorder = run(config(tmp_path / 'whole', name, **common))
    done = sum(-(-length // 3) for length in sampler_of(whole).lengths[:2])
    run(config(tmp_path / 'parts', name, **common), stop_after=done + 2)
    cfg = config(tmp_path / 'parts', name, **common)
    cfg.resume, cfg.experiment_name = True, 'resumed'
    resumed, second = run(cfg)
    assert second.images == recorder.images[done:]
    assert second.objectives == recorder.objectives[done:]
    assert_same(resumed, whole)


@pytest.mark.parametrize('way', ['skip', 'replay'])
def test_a_finite_sampler_resumes_in_an_iteration_based_loop(tmp_path, monkeypatch, way):
    if way == 'replay':
        monkeypatch.setattr(loops, '_InfiniteDataloaderIterator', EarlyIterator)
    common = dict(by_epoch=False, infinite=False, length=24, lr=1e-3, ratio=0.4)
    whole, recorder = run(config(tmp_path / 'whole', 'UCB', **common))
    assert 'set `infinite=True`' in log_text(tmp_path / 'whole')
    # 20 images in batches of 3 are 7 iterations, of which the last is short; 12 images are 4.
    assert [len(images) for images in recorder.images[:11]] == [3] * 6 + [2] + [3] * 4
    for number in (7, 9, 20):
        run(config(tmp_path / 'parts', 'UCB', **common), stop_after=number + 1)
        cfg = config(tmp_path / 'parts', 'UCB', **common)
        cfg.resume, cfg.experiment_name = True, f'resumed{number}'
        cfg.load_from = str(tmp_path / 'parts' / f'iter_{number}.pth')
        resumed, second = run(cfg)
        assert second.images == recorder.images[number:]
        assert_same(resumed, whole)


@pytest.mark.skipif(
    'fast_forward_on_resume' not in inspect.signature(IterBasedTrainLoop).parameters,
    reason='an argument of the fork',
)
def test_a_loop_that_does_not_go_to_its_place_is_taken_there(tmp_path):
    common = dict(by_epoch=False, length=26, lr=1e-3)
    whole, recorder = run(config(tmp_path / 'whole', **common))
    run(config(tmp_path / 'parts', **common), stop_after=11)
    cfg = config(tmp_path / 'parts', loop=dict(fast_forward_on_resume=True), **common)
    cfg.resume, cfg.experiment_name = True, 'resumed'
    cfg.load_from = str(tmp_path / 'parts' / 'iter_10.pth')
    resumed, second = run(cfg)
    assert second.images == recorder.images[10:]
    assert_same(resumed, whole)


def test_resuming_a_run_that_had_no_sampler_begins_with_full_passes(tmp_path):
    cfg = config(tmp_path / 'stock', by_epoch=False, length=10, hook=False)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    run(cfg)
    cfg = config(tmp_path / 'later', by_epoch=False, length=30)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'stock' / 'iter_10.pth')
    runner, _ = run(cfg)
    assert 'holds no state of InfoBatch' in log_text(tmp_path / 'later')
    assert sampler_of(runner).lengths[:2] == (20, 20)


def test_loading_weights_for_a_new_run_restores_nothing(tmp_path):
    run(config(tmp_path / 'first', length=2))
    cfg = config(tmp_path / 'second', length=1)
    cfg.load_from = str(tmp_path / 'first' / 'epoch_2.pth')
    runner, recorder = run(cfg)
    assert sampler_of(runner).lengths == (20,)
    assert len(recorder.images) == 7


def test_the_state_is_tensors_and_plain_values(tmp_path):
    run(config(tmp_path, length=2))
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['mmpfb_sampler']
    torch.save(saved, tmp_path / 'state.pth')
    again = torch.load(tmp_path / 'state.pth', weights_only=True)
    assert again['lengths'] == saved['lengths']
    assert list(again['plans']) == [1]


# What it leaves alone


def test_without_weights_the_training_is_the_stock_one(tmp_path):
    after = []
    for name, hook in (('with', None), ('without', False)):
        runner, recorder = run(
            config(tmp_path / name, 'StaticRandom', ratio=0.0, lr=1e-3, hook=hook, length=2)
        )
        after.append((runner.model.factor.item(), recorder.objectives, torch.get_rng_state()))
    assert after[0][:2] == after[1][:2]
    assert torch.equal(after[0][2], after[1][2])


def hooks_left(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_a_model_keeps_no_hooks(tmp_path):
    runner, _ = run(config(tmp_path / 'whole'))
    assert not hooks_left(runner.model)
    for fails_at in (1, 12):
        runner = Runner.from_cfg(
            config(tmp_path / f'fails{fails_at}', model=dict(fails_at=fails_at))
        )
        with pytest.raises(RuntimeError, match='out of memory'):
            runner.train()
        assert not hooks_left(runner.model)
        runner.visualizer.close()


def test_a_sampler_that_needs_no_losses_records_nothing(tmp_path, monkeypatch):
    import mmpfb.engine.image_losses_hook as module

    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(module, 'recording_image_losses', refuse)
    monkeypatch.setattr(module, 'image_names', refuse)
    run(config(tmp_path, 'UniformDynamic', ratio=0.5))


def test_a_sampler_that_needs_losses_does_not_work_without_the_hook(tmp_path):
    with pytest.raises(RuntimeError, match="image_losses=dict\\(type='mmpfb.ImageLossesHook'\\)"):
        run(config(tmp_path, hook=False))


def test_the_log_tells_how_many_images_there_were(tmp_path):
    run(config(tmp_path, 'UCB', ratio=0.4, length=3))
    assert 'by the losses of 20 images, from 1 loss module' in log_text(tmp_path)
    assert 'UCB began 3 passes of 12 to 20 of 20 images' in log_text(tmp_path)


def test_a_run_of_fixed_length_is_told_that_it_saves_nothing(tmp_path):
    run(config(tmp_path, 'UCB', ratio=0.4, length=3, by_epoch=False))
    assert 'UCB makes passes over the data shorter, not the run' in log_text(tmp_path)


@pytest.mark.parametrize('by_iteration', [True, False])
def test_a_schedule_that_ends_after_the_run_is_warned_about(tmp_path, by_iteration):
    cfg = config(tmp_path, 'UCB', ratio=0.4, length=3)
    cfg.param_scheduler = dict(
        type='PolyLR', begin=0, end=3, by_epoch=True, convert_to_iter_based=by_iteration
    )
    run(cfg)
    assert ('so the run ends before the schedule does' in log_text(tmp_path)) == by_iteration


# What it refuses


@pytest.mark.parametrize('name', ['loss', 'loss_ce'])
def test_an_objective_with_a_loss_that_no_module_computes_is_refused(tmp_path, name):
    """Heads of one host name their loss as MMEngine names the sum of all."""
    run(config(tmp_path / 'sound', model=dict(name=name), length=1))
    cfg = config(tmp_path / 'strict', model=dict(hidden=0.5, name=name))
    with pytest.raises(ImageLossError, match='is computed elsewhere and would not be weighted'):
        run(cfg)
    run(
        config(tmp_path / 'lax', model=dict(hidden=0.5, name=name),
               hook=dict(check_objective=False), length=1)
    )


def test_sums_over_images_are_refused(tmp_path):
    with pytest.raises(ImageLossError, match='to return means over the images of a batch'):
        run(config(tmp_path, model=dict(reduction='sum')))


def test_an_epoch_that_would_never_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match='`infinite` of the sampler to be False'):
        run(config(tmp_path, infinite=True))


def test_another_sampler_is_refused(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    with pytest.raises(TypeError, match='to be drawn by an epoch-level sampler, but got Default'):
        run(cfg)


def test_a_model_that_prunes_its_batches_is_refused(tmp_path):
    def change(cfg):
        cfg.train_dataloader.sampler = dict(type='mmpfb.InfoBatch', infinite=True, shuffle=True)
        cfg.default_hooks.image_losses = dict(type='mmpfb.ImageLossesHook')

    with pytest.raises(ValueError, match='but PFBEncoderDecoder prunes 50% of each'):
        tiny_run.run(tmp_path / 'both', change)
    runner = tiny_run.run(
        tmp_path / 'one', change, pruning=dict(ratio=0.0), hook=False, max_iters=2
    )
    assert sampler_of(runner).scores()['loss'].isfinite().sum() == 8


def test_samples_whose_names_are_not_in_the_data_set_are_refused(tmp_path):
    runner = Runner.from_cfg(config(tmp_path))
    dataset = runner.build_dataloader(runner.cfg.train_dataloader).dataset
    prepare = type(dataset).prepare_data

    def other_names(self, index):
        data = prepare(self, index)
        data['data_samples'].set_metainfo({'img_path': 'elsewhere.png'})
        return data

    type(dataset).prepare_data = other_names
    try:
        with pytest.raises(ValueError, match="such as '0.png', but got 'elsewhere.png'"):
            runner.train()
    finally:
        type(dataset).prepare_data = prepare


class TwoByTwo(BatchSampler):
    pass


def test_batch_samplers_of_the_users(tmp_path):
    DATA_SAMPLERS.register_module(module=TwoByTwo, force=True)
    cfg = config(tmp_path / 'finite', 'UCB', ratio=0.4)
    cfg.train_dataloader.batch_sampler = dict(type='mmpfb.TwoByTwo', drop_last=True)
    runner, recorder = run(cfg)
    assert runner.train_dataloader.batch_sampler.sampler.lengths == (20, 12, 12)
    assert [len(images) for images in recorder.images] == [3] * (6 + 4 + 4)
    cfg = config(tmp_path / 'infinite', by_epoch=False)
    cfg.train_dataloader.batch_sampler = dict(type='mmpfb.TwoByTwo', drop_last=True)
    with pytest.raises(TypeError, match='Expected a plain batch sampler'):
        run(cfg)


def test_the_argument_is_checked():
    with pytest.raises(ValueError, match='`check_objective` to be True or False'):
        ImageLossesHook(check_objective='no')


def test_the_registry_knows_the_samplers():
    built = DATA_SAMPLERS.build(dict(type='mmpfb.InfoBatch', dataset=range(4), seed=0))
    assert isinstance(built, InfoBatch)
    assert isinstance(
        DATA_SAMPLERS.build(dict(type='DefaultSampler', dataset=range(4), seed=0)), DefaultSampler
    )
    assert EpochBasedTrainLoop is not IterBasedTrainLoop


# Two processes


def train(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2
    )
    assert NumbersModel
    runner, recorder = run(config(f'{folder}/work', 'UCB', ratio=0.4, by_epoch=False, length=9))
    scores = {name: score.tolist() for name, score in sampler_of(runner).scores().items()}
    with open(f'{folder}/{rank}.pkl', 'wb') as file:
        pickle.dump((recorder.images, scores, sampler_of(runner).lengths), file)
    dist.destroy_process_group()


def test_two_processes_know_the_losses_of_both(tmp_path):
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    multiprocessing.spawn(train, (port, str(tmp_path)), nprocs=2)
    left, right = (pickle.loads((tmp_path / f'{rank}.pkl').read_bytes()) for rank in range(2))
    assert left[1:] == right[1:]
    assert left[1]['mean'] == list(range(20))
    first = [sum(images, [])[:10] for images, *_ in (left, right)]
    assert sorted(first[0] + first[1]) == list(range(20))
