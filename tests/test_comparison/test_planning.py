"""What a comparison plans is what its runs do."""

import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

from mmpfb.comparison.methods import parse_method
from mmpfb.comparison.planning import (
    check_methods,
    make_plan,
    make_runs,
    planned_images_of,
    step_cost,
)
from mmpfb.errors import LocationError
from mmpfb.models.counting import count_cost
from tests.test_engine import tiny_run


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def base(length=24, drop_last=False, **settings):
    """Pruned from a quarter to three quarters of the run, unless told otherwise."""
    config = tiny_run.config('nowhere', **settings)
    config.train_dataloader.dataset.length = length
    config.train_dataloader.drop_last = drop_last
    return config


def plan(ratio=0.5, budget='equal-images', num_gpus=1, **settings):
    return make_plan(base(**settings), ratio, budget, num_gpus)


def runs_of(methods, folder, ratio=0.5, num_seeds=1, **settings):
    methods = [parse_method(text) for text in methods]
    return make_runs(plan(ratio, **settings), methods, num_seeds, folder)


# ---- Plans -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        # (iterations of the run, of the short one, of one pass)
        # 10 of 20 iterations train on two of four images: 60 of 80 images.
        (dict(max_iters=20), (20, 15, 6)),
        # Two of ten are pruned of a batch of four in half of the iterations: 72 of 80.
        (dict(max_iters=20, ratio=0.2), (20, 18, 6)),
        (dict(max_iters=20, num_gpus=2), (20, 15, 3)),
        # Three batches of an epoch hold ten images: three quarters of 80, in fours.
        (dict(max_iters=8, by_epoch=True, length=10), (24, 15, 3)),
        # Two batches hold eight of the ten: three quarters of 64.
        (dict(max_iters=8, by_epoch=True, length=10, drop_last=True), (16, 12, 2)),
        # A loop of iterations has whole batches; they may be larger than the data.
        (dict(max_iters=20, length=3, drop_last=True), (20, 15, 1)),
        # Three images are always retained: 70 of 80, which is 17.5 batches.
        (dict(max_iters=20, pruning={'min_keep': 3}), (20, 18, 6)),
        # The stock model prunes from 1 to 18.
        (dict(max_iters=20, pruning=False, hook=False), (20, round((12 + 34) / 4), 6)),
    ],
)
def test_lengths_by_hand(settings, expected):
    made = plan(**settings)
    lengths = (made.iterations, made.short_iterations, made.iterations_per_epoch)
    assert lengths == expected


def test_budgets():
    names = ('full', 'short', 'pfb', 'infobatch')
    for budget, iterations, work in (
        ('equal-images', [20, 15, 20, 15], [20, 15, 15, 15]),
        ('equal-iterations', [20, 15, 20, 20], [20, 15, 15, 20]),
    ):
        made = plan(budget=budget)
        methods = [parse_method(name) for name in names]
        assert [made.iterations_of(method) for method in methods] == iterations
        assert [planned_images_of(made, method) for method in methods] == work


@pytest.mark.parametrize('settings', [{'batch_size': 1}, {'ratio': 0.0}])
def test_a_ratio_without_effect_is_refused(settings):
    with pytest.raises(ValueError, match='at which images are pruned, but ratio=.* prunes nothing'):
        plan(**settings)


def test_runs(tmp_path):
    runs = runs_of(['short', 'pfb:temperature=1'], tmp_path, num_seeds=2)
    assert [(run.method.name, run.seed, run.iterations) for run in runs] == [
        ('short', 0, 15), ('pfb', 0, 20), ('short', 1, 15), ('pfb', 1, 20)
    ]
    assert [run.config.randomness.seed for run in runs] == [0, 0, 1, 1]
    assert runs[3].folder == tmp_path / 'pfb-temperature=1/seed1'


# ---- What would fail later -------------------------------------------------------------------


def test_methods_that_can_be_built_pass(tmp_path):
    check_methods(runs_of(['full', 'pfb', 'highloss', 'infobatch', 'ucb'], tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('text', 'settings', 'error', 'message'),
    [
        ('pfb:num_centroids=1', {}, ValueError, 'num_centroids'),
        ('pfb:colour=1', {}, ValueError, 'colour'),
        ('infobatch:colour=1', {}, TypeError, 'colour'),
        ('infobatch:threshold=200', {}, ValueError, 'threshold'),
        ('uniform', {'pruning': {'location': 'backbone.layer9'}}, LocationError, 'layer9'),
    ],
)
def test_what_training_would_refuse_is_refused_before(text, settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        check_methods(runs_of([text], tmp_path, **settings))


# ---- Operations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'pruning'),
    [
        ('pfb', {'mode': 'reuse'}),
        ('pfb', {'mode': 'rescore', 'score_scale': 0.5}),
        ('highloss', {}),
    ],
)
def test_a_run_costs_what_its_steps_cost(text, pruning, tmp_path):
    (run,) = runs_of([text], tmp_path, pruning=pruning)
    cost = step_cost(run, 0.5)
    whole = {'images_loaded': 80, 'images_seen_while_pruning': 0, 'images_kept_while_pruning': 0}
    assert cost.of_run(whole) == 80 * cost.full
    assert cost.pruned < cost.full
    # A run that really prunes another share costs what is counted for that share.
    another = count_cost(run.config, (32, 32), ratio=0.25).pruned.total
    for kept, pruned in ((20, cost.pruned), (30, another)):
        record = {**whole, 'images_seen_while_pruning': 40, 'images_kept_while_pruning': kept}
        assert cost.of_run(record) == pytest.approx(40 * cost.full + 40 * pruned, rel=1e-6)


def test_operations_and_images_of_a_real_training(tmp_path):
    """The plan, the record and the count agree with what PyTorch saw in the whole training."""
    for run in runs_of(['pfb', 'infobatch'], tmp_path, max_iters=12):
        config = Config(run.config.to_dict())
        config.work_dir = str(run.folder)
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
        runner = Runner.from_cfg(config)
        with FlopCounterMode(display=False) as counter:
            runner.train()
        record = json.loads((run.folder / 'run_record.json').read_text())
        assert record['images_trained'] == 36
        assert step_cost(run, 0.5).of_run(record) == counter.get_total_flops()


def test_what_cannot_be_counted_is_refused(tmp_path):
    (run,) = runs_of(['pfb'], tmp_path)
    with pytest.raises(ValueError, match='at least 0.001 to count, but got 0.0001'):
        step_cost(run, 1e-4)
    del run.config.model.data_preprocessor['size']
    with pytest.raises(ValueError, match='tell the size of its images'):
        step_cost(run, 0.5)
