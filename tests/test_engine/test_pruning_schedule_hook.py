"""The hook alone decides when; it logs, saves, resumes and sums up."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpfb.engine import PruningScheduleHook
from mmpfb.errors import EstimatorStateError, NoEffectWarning
from tests.states import assert_same_state

from .tiny_run import config, run


class KeptRecorder(Hook):
    """Records, for every iteration, which images of the batch were kept."""

    def __init__(self):
        self.kept = []
        self.names = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kept.append(runner.model.pruner.last_kept)
        self.names.append([s.metainfo['img_path'] for s in data_batch['data_samples']])


def recorded_run(cfg):
    runner = Runner.from_cfg(cfg)
    recorder = KeptRecorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def test_prunes_inside_of_the_window_only(tmp_path):
    _, recorder = recorded_run(config(tmp_path))
    pruned = [kept is not None for kept in recorder.kept]
    assert pruned == [False] * 5 + [True] * 10 + [False] * 5
    assert all(len(kept) == 2 for kept in recorder.kept[5:15])


@pytest.mark.parametrize(
    ('hook', 'first', 'last'),
    [
        (dict(begin=3, end=7, by='iter'), 3, 6),
        (dict(begin=1, end=2, by='epoch'), 6, 11),
        (dict(begin=0.5, end=1.0, by='fraction'), 10, 19),
    ],
)
def test_window_by_iterations_epochs_and_fractions(tmp_path, hook, first, last):
    _, recorder = recorded_run(config(tmp_path, hook=hook))
    pruned = [index for index, kept in enumerate(recorder.kept) if kept is not None]
    assert (pruned[0], pruned[-1], len(pruned)) == (first, last, last - first + 1)


def test_epoch_based_loop(tmp_path):
    cfg = config(
        tmp_path, max_iters=3, by_epoch=True, hook=dict(begin=1, end=2, by='epoch', interval=2)
    )
    runner, recorder = recorded_run(cfg)
    pruned = [index for index, kept in enumerate(recorder.kept) if kept is not None]
    assert pruned == list(range(6, 12))
    assert runner.model.pruner.images_seen == 3 * 24


def test_the_temperature_follows_its_own_line(tmp_path):
    class Temperatures(Hook):
        priority = 'LOWEST'
        seen = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen.append(runner.model.pruner.selector.temperature)

    runner = Runner.from_cfg(config(tmp_path, hook=dict(temperature=(0.0, 3.0)), max_iters=8))
    runner.register_hook(Temperatures())
    runner.train()
    # Pruning runs from iteration 2 to 5.
    assert Temperatures.seen == [None, None, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_a_temperature_of_a_selector_without_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'no argument `temperature` with the selector Uniform'):
        run(tmp_path, pruning=dict(selector=dict(type='Uniform')), hook=dict(temperature=[1, 2]))


def test_ramp_prunes_less_at_first(tmp_path):
    cfg = config(
        tmp_path, max_iters=40, batch_size=8, hook=dict(begin=0.1, end=0.9, ramp=1.0),
    )
    _, recorder = recorded_run(cfg)
    window = [8 if kept is None else len(kept) for kept in recorder.kept[4:36]]
    quarter = len(window) // 4
    dropped = [sum(8 - count for count in window[i : i + quarter]) for i in range(0, 32, quarter)]
    assert dropped == sorted(dropped)
    assert dropped[0] < dropped[-1] / 3


def test_ratio_of_the_run_is_exact(tmp_path):
    runner = run(tmp_path, pruning=dict(ratio=0.3), hook=dict(begin=0.0, end=1.0))
    summary = json.loads((tmp_path / 'pruning_summary.json').read_text())
    pruner = runner.model.pruner
    observed = 2 * 4  # eight centroids are collected from the first two batches
    assert summary['images_seen'] == 20 * 4
    assert summary['images_kept'] == observed + int(18 * 4 * 0.7)
    assert pruner.images_kept == summary['images_kept']
    assert summary['ratio_over_run'] == pytest.approx(1 - summary['images_kept'] / 80)


def test_before_the_window_the_estimator_watches_and_after_it_rests(tmp_path):
    cfg = config(tmp_path)
    runner = Runner.from_cfg(cfg)
    states = []

    class Watcher(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            estimator = runner.model.pruner.selector.estimator
            states.append(estimator.counts.sum().item() if estimator.ready else None)

    runner.register_hook(Watcher())
    runner.train()
    assert states[:5] == [None, 8, 12, 16, 20]
    assert states[5:15] == [20 + 2 * i for i in range(1, 11)]
    assert set(states[15:]) == {40}


def test_pruning_waits_for_the_estimator_and_says_so(tmp_path):
    runner, recorder = recorded_run(
        config(tmp_path, pruning=dict(selector=dict(type='PFB', num_centroids=32)))
    )
    pruned = [index for index, kept in enumerate(recorder.kept) if kept is not None]
    assert pruned == list(range(8, 15))
    assert 'Pruning starts after 12 more images' in log_text(tmp_path)


def log_text(work_dir):
    return '\n'.join(path.read_text() for path in Path(work_dir).rglob('*.log'))


def scalars(work_dir):
    (path,) = Path(work_dir).rglob('scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_logs_per_interval_through_the_normal_loggers(tmp_path):
    run(tmp_path)
    rows = [row for row in scalars(tmp_path) if 'pruning/seen' in row]
    assert [row['pruning/seen'] for row in rows] == [20, 20, 20, 20]
    assert [row['pruning/kept'] for row in rows] == [20, 10, 10, 20]
    assert [row['pruning/ratio'] for row in rows] == [0, 0.5, 0.5, 0]
    for name in ('random_share', 'centroids_in_use'):
        assert 0 <= rows[1][f'pruning/{name}'] <= 1
    assert rows[1]['pruning/scoring_ms'] > 0
    assert 'pruning/kept: 10' in log_text(tmp_path)


def test_no_logged_name_enters_the_objective(tmp_path):
    runner = run(tmp_path)
    names = [name for name in runner.message_hub.log_scalars if 'pruning' in name]
    assert names
    assert not [name for name in names if 'loss' in name]
    batch = next(iter(runner.train_dataloader))
    data = runner.model.data_preprocessor(batch, True)
    losses = runner.model(**data, mode='loss')
    assert all('pruning' not in name for name in losses)


def test_summary_is_printed_and_written(tmp_path):
    run(tmp_path)
    text = log_text(tmp_path)
    assert 'Pruning summary: PFB at backbone.layer3' in text
    assert 'images seen / kept' in text
    assert '80 / 60' in text
    summary = json.loads((tmp_path / 'pruning_summary.json').read_text())
    assert summary['ratio_over_run'] == 0.25
    assert summary['ratio_while_pruning'] == 0.5
    assert summary['iterations_pruned'] == 10
    for key in ('seconds_unpruned', 'seconds_pruned', 'seconds_waiting'):
        assert summary[key] > 0
    assert 0 <= summary['data_loading_share'] < 1
    assert summary['saved_over_run'] == pytest.approx(summary['saved_per_pruned_iteration'] / 2)


def state_of(runner):
    return runner.model.pruner.state_dict()


@pytest.mark.parametrize('ratio', [0.3, 0.5])
@pytest.mark.parametrize('selector', ['PFB', 'Uniform'])
def test_twenty_iterations_equal_ten_and_ten_resumed(tmp_path, ratio, selector):
    options = {'num_centroids': 8} if selector == 'PFB' else {}
    pruning = dict(ratio=ratio, selector=dict(type=selector, **options))
    whole, recorder = recorded_run(config(tmp_path / 'whole', pruning=pruning))

    cfg = config(tmp_path / 'parts', pruning=pruning)
    stopping = Runner.from_cfg(cfg)

    class StopAtTen(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx == 9:
                raise KeyboardInterrupt

    stopping.register_hook(StopAtTen())
    with pytest.raises(KeyboardInterrupt):
        stopping.train()
    stopping.visualizer.close()

    cfg = config(tmp_path / 'parts', pruning=pruning)
    cfg.resume = True
    cfg.experiment_name = 'resumed'
    resumed, second = recorded_run(cfg)
    assert second.names == recorder.names[10:]
    assert second.kept == recorder.kept[10:]
    assert_same_state(state_of(resumed), state_of(whole))
    for left, right in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(left, right)


def checkpoint(work_dir, iteration=20):
    return Path(work_dir) / f'iter_{iteration}.pth'


def test_checkpoint_loads_in_the_stock_model_without_a_word(tmp_path):
    run(tmp_path / 'pruned')
    saved = torch.load(checkpoint(tmp_path / 'pruned'), weights_only=False)
    stock = Runner.from_cfg(config(tmp_path / 'stock', pruning=False, hook=False))
    result = stock.model.load_state_dict(saved['state_dict'], strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys


def test_pruning_state_is_tensors_and_plain_values(tmp_path):
    run(tmp_path)
    state = torch.load(checkpoint(tmp_path), weights_only=False)['mmpfb']
    torch.save(state, tmp_path / 'state.pth')
    assert_same_state(torch.load(tmp_path / 'state.pth', weights_only=True), state)


def resume(work_dir, path, **settings):
    cfg = config(work_dir, max_iters=25, hook=dict(begin=0.2, end=0.9), **settings)
    cfg.resume, cfg.load_from = True, str(path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_resuming_from_a_stock_checkpoint_starts_anew_and_says_so(tmp_path):
    run(tmp_path / 'stock', pruning=False, hook=False)
    runner = resume(tmp_path / 'pruned', checkpoint(tmp_path / 'stock'))
    assert 'holds no pruning state' in log_text(tmp_path / 'pruned')
    assert runner.model.pruner.iteration == 5


def test_resuming_with_another_selector_keeps_the_counts_and_says_so(tmp_path):
    run(tmp_path / 'pfb')
    with pytest.warns(UserWarning, match="state of selector 'PFB'; 'Uniform' starts anew"):
        runner = resume(
            tmp_path / 'uniform',
            checkpoint(tmp_path / 'pfb'),
            pruning=dict(selector=dict(type='Uniform')),
        )
    assert runner.model.pruner.iteration == 25
    assert "state of selector 'PFB'; 'Uniform' starts anew" in log_text(tmp_path / 'uniform')
    # That of the other selector says nothing of this one.
    assert runner.model.pruner.random_share is None


def test_a_selector_that_starts_anew_inside_the_window_says_what_it_waits_for(tmp_path):
    run(tmp_path / 'uniform', pruning=dict(selector=dict(type='Uniform')))
    with pytest.warns(UserWarning, match="'PFB' starts anew"):
        resume(tmp_path / 'pfb', checkpoint(tmp_path / 'uniform'))
    assert log_text(tmp_path / 'pfb').count('Pruning starts after 8 more images') == 1


def test_resuming_with_another_location_says_so(tmp_path):
    def settings(layer):
        selector = dict(type='PFB', num_centroids=8, dim=16)
        return dict(location=f'backbone.{layer}', selector=selector)

    run(tmp_path / 'third', pruning=settings('layer3'))
    for layer, number in (('layer3', 0), ('layer4', 1)):
        folder = tmp_path / layer
        resume(folder, checkpoint(tmp_path / 'third'), pruning=settings(layer))
        text = 'was pruned at backbone.layer3 and goes on at backbone.layer4'
        assert log_text(folder).count(text) == number


def test_resuming_with_another_estimator_size_is_refused(tmp_path):
    run(tmp_path / 'eight')
    with pytest.raises(EstimatorStateError, match='num_centroids=6, but got num_centroids=8'):
        resume(
            tmp_path / 'six',
            checkpoint(tmp_path / 'eight'),
            pruning=dict(selector=dict(type='PFB', num_centroids=6)),
        )


def test_loading_weights_for_a_new_run_restores_nothing(tmp_path):
    run(tmp_path / 'first')
    cfg = config(tmp_path / 'second', max_iters=5)
    cfg.load_from = str(checkpoint(tmp_path / 'first'))
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.pruner.iteration == 5


def test_the_seed_of_the_run_decides_the_choice(tmp_path):
    kept = []
    for seed in (1, 1, 2):
        cfg = config(tmp_path / str(len(kept)), pruning=dict(selector=dict(type='Uniform')))
        cfg.randomness = dict(seed=seed)
        kept.append(recorded_run(cfg)[1].kept)
    assert kept[0] == kept[1]
    assert kept[0] != kept[2]


def test_augmentation_and_dropout_draw_the_same_numbers_with_and_without_pruning(tmp_path):
    after = []
    for name, pruning in (('stock', False), ('pruned', None)):
        run(tmp_path / name, pruning=pruning, hook=None if pruning is None else False)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(begin=0.5, end=0.5), '`begin` to be less than `end`, but got begin=0.5, end=0.5'),
        (dict(begin=0.9, end=0.1), '`begin` to be less than `end`'),
        (dict(begin=-0.1), r'`begin` to be in \[0, 1\], but got -0.1'),
        (dict(end=1.5), r'`end` to be in \[0, 1\], but got 1.5'),
        (dict(begin=0, end=2.5, by='epoch'), '`end` to be a whole number'),
        (dict(by='step'), "`by` to be one of 'fraction', 'iter', 'epoch', but got 'step'"),
        (dict(temperature=1.0), r'`temperature` to be two numbers, at begin and end .* got 1\.0'),
        (dict(temperature=[1]), r'`temperature` to be two numbers'),
        (dict(temperature=[1, -1]), r'`temperature` to be a finite number of at least 0, but got'),
        (dict(ramp=2), r'`ramp` to be in \[0, 1\], but got 2'),
        (dict(ramp_from=-1), r'`ramp_from` to be in \[0, 1\], but got -1'),
        (dict(interval=0), '`interval` to be an integer of at least 1, but got 0'),
    ],
)
def test_wrong_settings_are_refused_when_the_hook_is_built(settings, message):
    with pytest.raises(ValueError, match=message):
        PruningScheduleHook(**settings)


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (dict(begin=5, end=21, by='iter'), '`end` to lie inside the run of 20 iterations'),
        (dict(begin=1, end=4, by='epoch'), "end=4 with by='epoch', which is iteration 24"),
        (dict(begin=0.50, end=0.51), 'at least one iteration between `begin` and `end`'),
    ],
)
def test_a_window_outside_of_the_run_is_refused_before_the_first_iteration(
    tmp_path, hook, message
):
    runner = Runner.from_cfg(config(tmp_path, hook=hook))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_a_model_that_cannot_prune_is_refused(tmp_path):
    runner = Runner.from_cfg(config(tmp_path, pruning=False))
    with pytest.raises(TypeError, match='a model that prunes, but got EncoderDecoder'):
        runner.train()


def test_min_keep_larger_than_the_batch_is_refused_before_the_first_iteration(tmp_path):
    runner = Runner.from_cfg(config(tmp_path, pruning=dict(min_keep=5)))
    with pytest.raises(ValueError, match='`min_keep` to be at most the batch size 4, but got 5'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('batch_size', 'pruning', 'message'),
    [
        (2, dict(min_keep=2), 'never lose an image.*3 is the smallest batch size that prunes'),
        (1, {}, 'never lose an image.*2 is the smallest batch size that prunes'),
        (4, dict(min_keep=3, ratio=0.5), 'lose at most 25%: a batch size of 6 reaches ratio=0.5'),
        (4, dict(ratio=0), 'ratio=0 prunes no image'),
    ],
)
def test_a_batch_that_the_ratio_cannot_shrink_is_warned_about_once(
    tmp_path, batch_size, pruning, message
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        run(tmp_path, max_iters=8, batch_size=batch_size, pruning=pruning)
    texts = [str(item.message) for item in caught if item.category is NoEffectWarning]
    assert len(texts) == 1
    import re

    assert re.search(message, texts[0])


def test_exponential_moving_average_of_the_weights(tmp_path):
    cfg = config(tmp_path)
    cfg.custom_hooks = [dict(type='EMAHook', update_buffers=True)]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.pruner.images_kept == 60


def test_gradient_accumulation(tmp_path):
    cfg = config(tmp_path)
    cfg.optim_wrapper.accumulative_counts = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.pruner.images_kept == 60


def test_tensorboard_gets_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def backends(cfg):
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])

    runner = run(tmp_path, backends)
    runner.visualizer.close()
    (events,) = Path(tmp_path).rglob('events.out.tfevents.*')
    board = EventAccumulator(str(events.parent))
    board.Reload()
    assert {'pruning/seen', 'pruning/kept', 'pruning/ratio', 'pruning/random_share',
            'pruning/centroids_in_use', 'pruning/scoring_ms'} <= set(board.Tags()['scalars'])
    assert [event.value for event in board.Scalars('pruning/kept')] == [20, 10, 10, 20]


def test_a_stock_run_resumed_from_a_pruned_one_logs_no_pruning(tmp_path):
    run(tmp_path / 'pruned')
    cfg = config(tmp_path / 'stock', max_iters=25, pruning=False, hook=False)
    cfg.resume, cfg.load_from = True, str(checkpoint(tmp_path / 'pruned'))
    Runner.from_cfg(cfg).train()
    assert not [row for row in scalars(tmp_path / 'stock') if 'pruning/seen' in row]


def test_a_run_without_effect_says_so_in_its_log(tmp_path):
    with pytest.warns(NoEffectWarning):
        run(tmp_path, max_iters=8, batch_size=2, pruning=dict(min_keep=2))
    assert 'can never lose an image' in log_text(tmp_path)


def test_a_run_too_short_for_the_selector_says_so(tmp_path):
    run(tmp_path, max_iters=8, pruning=dict(selector=dict(type='PFB', num_centroids=64)))
    assert 'nothing was pruned' in log_text(tmp_path)


def test_a_resumed_run_says_that_its_scores_change(tmp_path, caplog):
    run(tmp_path, max_iters=10)

    def resume(cfg):
        cfg.resume = True
        cfg.default_hooks.pruning.end = 0.9

    with caplog.at_level('WARNING'):
        run(tmp_path, resume, pruning={'mode': 'rescore', 'score_scale': 0.5}, max_iters=12)
    text = 'was scored with mode reuse and goes on with mode rescore, score scale 0.5'
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert text in log


@pytest.mark.parametrize(
    ('pruning', 'begin', 'warned'),
    [
        ({'mode': 'rescore'}, 49, True),
        ({'mode': 'rescore'}, 50, False),
        ({'mode': 'reuse'}, 10, False),
        ({'mode': 'rescore', 'selector': {'type': 'Uniform'}}, 10, False),
    ],
)
def test_scores_by_unsettled_statistics_are_warned_about(tmp_path, pruning, begin, warned):
    hook = {'by': 'iter', 'begin': begin, 'end': 60}
    runner = Runner.from_cfg(config(tmp_path, max_iters=60, pruning=pruning, hook=hook))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_train')
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert ('They need some 50 iterations to settle' in log) is warned


def test_rescore_learns_from_where_pruning_is_due(tmp_path):
    runner = run(tmp_path, pruning={'mode': 'rescore'}, max_iters=20)
    pruner = runner.model.pruner
    # Iterations 5 to 15; two of them collect eight centroids from batches of four.
    assert pruner.iterations_pruned == 8
    assert pruner.selector.estimator.counts.sum() == 8 + 8 * 2
