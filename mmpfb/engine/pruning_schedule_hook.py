"""The calendar of pruning: when it runs, what is logged, saved and summed up. No formula."""

import json
import time
from collections.abc import Sequence
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmpfb.analysis import IterationTimes, PruningSummary, savings
from mmpfb.core.checks import check_non_negative, check_positive_int
from mmpfb.core.schedule import (
    PruningWindow,
    check_window,
    linear_between,
    resolve_window,
    scheduled_ratio,
)
from mmpfb.engine.checkpointed_parts import check_checkpointed_parts
from mmpfb.engine.strategies import check_strategy
from mmpfb.engine.unwrapped import unwrapped_model
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.pruner import BatchPruner, Phase
from mmpfb.registry import HOOKS
from mmpfb.selectors import Needs

CHECKPOINT_KEY = 'mmpfb'
# With the usual momentum of 0.1 less than one percent of the initial statistics is left by then.
SETTLING_ITERATIONS = 50
SUMMARY_FILE = 'pruning_summary.json'


@HOOKS.register_module()
class PruningScheduleHook(Hook):
    """Starts and stops pruning, logs it, resumes it, and sums it up at the end.

    Before ``begin`` the selector watches whole batches. After ``end`` the model trains on
    everything, so that its batch normalisation statistics see the full distribution again.

    Put it into ``default_hooks``: a dict is merged with the user's, while a ``custom_hooks`` list
    would replace the user's list.

    Args:
        begin: Where pruning starts, in units of ``by``.
        end: Where it stops.
        by: ``'fraction'`` of the run, ``'iter'`` or ``'epoch'``.
        ramp: Share of the time between ``begin`` and ``end`` over which the ratio rises linearly,
            in [0, 1].
        ramp_from: Share of the ratio at which the ramp begins, in [0, 1].
        interval: Number of iterations between two log entries; None: that of the ``LoggerHook``.
        temperature: Temperature of the selector in the first and in the last pruned iteration; it
            changes linearly in between. None leaves the selector's own.

    Raises:
        ValueError: If an argument is out of range or ``begin >= end``.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        begin: float = 0.05,
        end: float = 0.9,
        by: str = 'fraction',
        ramp: float = 0.0,
        ramp_from: float = 0.0,
        interval: int | None = None,
        temperature: Sequence[float] | None = None,
    ) -> None:
        check_window(begin, end, by)
        self.begin, self.end, self.by = begin, end, by
        self.ramp = check_non_negative('ramp', ramp, upper=1)
        self.ramp_from = check_non_negative('ramp_from', ramp_from, upper=1)
        self.interval = None if interval is None else check_positive_int('interval', interval)
        self.temperature = None if temperature is None else _check_temperature(temperature)
        self._window = PruningWindow(0, 0)
        self._times = IterationTimes()
        self._resumed = False
        self._started = False
        self._step_started = 0.0
        self._step_ended: float | None = None
        self._waited: float | None = None
        self._pruned_before = 0
        self._logged = (0, 0)
        self._logged_names: set[str] = set()
        self._peak_memory = 0

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot go well, before anything is loaded.

        Raises:
            ValueError: If the strategy of the runner loses the state of this hook.
        """
        check_strategy(runner)

    def before_train(self, runner: Runner) -> None:
        """Place the window in the run and say what will happen.

        Raises:
            LocationError: If the cut lies inside of a part that is checkpointed.
            TypeError: If the model of the runner cannot prune.
            ValueError: If the window, ``min_keep`` or ``temperature`` does not fit the run.
        """
        model = pruning_model(runner)
        pruner = model.pruner
        check_checkpointed_parts(runner, model)
        dataloader = runner.train_loop.dataloader
        self._started = False
        self._window = resolve_window(
            self.begin, self.end, self.by, runner.max_iters, len(dataloader)
        )
        batch_size = dataloader.batch_size
        if batch_size is not None:
            if model.pruning_settings.min_keep is not None and pruner.min_keep > batch_size:
                raise ValueError(
                    'Expected argument `min_keep` to be at most the batch size '
                    f'{batch_size}, but got {pruner.min_keep}.'
                )
            problem = pruner.warn_without_effect(batch_size)
            if problem is not None:
                runner.logger.warning(problem)
        if self.temperature is not None and not hasattr(pruner.selector, 'temperature'):
            raise ValueError(
                'Expected no argument `temperature` with the selector '
                f'{type(pruner.selector).__name__}, which has none, but got {self.temperature}.'
            )
        if self._scores_too_early(model):
            runner.logger.warning(
                f"mode='rescore' scores by the running statistics of batch normalisation from "
                f'iteration {self._window.begin} on. They need some {SETTLING_ITERATIONS} '
                'iterations to settle in a model that is trained from scratch; scores from before '
                'that are little better than chance. Let pruning begin later.'
            )
        if not self._resumed:
            # Ranks may have been given different seeds, and a resumed run knows that of the first.
            seeds = [runner.seed]
            broadcast_object_list(seeds)
            pruner.seed = seeds[0]
        if self.interval is None:
            self.interval = _logger_interval(runner)
        self._logged = (pruner.images_seen, pruner.images_kept)
        runner.logger.info(
            f'Pruning {pruner.ratio:.0%} of the images at {model.pruning_location} '
            f'({_mode_text(model)}) by '
            f'{type(pruner.selector).__name__} from iteration {self._window.begin} to '
            f'{self._window.end} of {runner.max_iters}; at least {pruner.min_keep} images are '
            'retained.'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Set phase and ratio of this iteration."""
        pruner = pruning_model(runner).pruner
        if runner.iter < self._window.begin:
            pruner.phase = Phase.OBSERVE
        elif runner.iter in self._window:
            pruner.phase = Phase.PRUNE
            pruner.current_ratio = scheduled_ratio(
                runner.iter, self._window, pruner.ratio, self.ramp, self.ramp_from
            )
            if self.temperature is not None:
                selector: Any = pruner.selector
                selector.temperature = linear_between(
                    runner.iter, self._window, *self.temperature
                )
        else:
            pruner.phase = Phase.IDLE
        starts = runner.iter in self._window and not self._started
        self._started = self._started or starts
        if starts and not pruner.selector.ready:
            level = WARNING if pruning_model(runner).pruning_mode == 'reuse' else INFO
            runner.logger.log(
                level,
                f'Pruning starts after {pruner.selector.num_images_missing} more images, which '
                'the selector has to see first (`num_centroids` for PFB).',
            )
        self._pruned_before = pruner.iterations_pruned
        now = time.perf_counter()
        self._waited = None if self._step_ended is None else now - self._step_ended
        self._step_started = now

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Record the time of the step and log once per interval."""
        pruner = pruning_model(runner).pruner
        now = time.perf_counter()
        pruned = pruner.iterations_pruned > self._pruned_before
        self._times.add(now - self._step_started, self._waited, pruned)
        assert self.interval is not None
        if self.every_n_inner_iters(batch_idx, self.interval):
            self._log(runner, pruner)
        self._step_ended = time.perf_counter()

    def before_val(self, runner: Runner) -> None:
        """Leave the time of a validation out of the time that a step waits for its data."""
        self._step_ended = None

    def after_val(self, runner: Runner) -> None:
        """Leave the time of a validation out of the time that a step waits for its data."""
        self._step_ended = None

    def after_train(self, runner: Runner) -> None:
        """Print the summary and write it into the work directory."""
        summary = self._summary(runner)
        if is_main_process():
            path = Path(runner.work_dir) / SUMMARY_FILE
            path.write_text(json.dumps(summary.to_dict(), indent=2) + '\n')
            runner.logger.info(f'{summary.to_text()}\n  written to {path}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of pruning to the checkpoint; the ``state_dict`` stays the stock one."""
        model = pruning_model(runner)
        checkpoint[CHECKPOINT_KEY] = {
            **model.pruner.state_dict(),
            'scores': _mode_text(model),
            'location': model.pruning_location,
            'num_ranks': get_world_size(),
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the state of pruning when a run is resumed.

        Weights loaded with ``load_from`` begin a new run, whose features drift anew: nothing is
        restored then.
        """
        if not getattr(runner, '_resume', False):
            return
        if CHECKPOINT_KEY not in checkpoint:
            runner.logger.warning(
                'The checkpoint holds no pruning state; the selector starts anew and counts begin '
                'at zero.'
            )
            return
        state, model = checkpoint[CHECKPOINT_KEY], pruning_model(runner)
        if state.get('scores', _mode_text(model)) != _mode_text(model):
            runner.logger.warning(
                f'The run was scored with {state["scores"]} and goes on with {_mode_text(model)}: '
                'its centroids have to move to the other features.'
            )
        if state.get('num_ranks', get_world_size()) != get_world_size():
            runner.logger.warning(
                f'The run was saved by {_processes(state["num_ranks"])} and goes on with '
                f'{_processes(get_world_size())}. Centroids and counts go on; the random choices, '
                'the order of the images and the number of images in an iteration are others, and '
                'the learning rate stays as it was.'
            )
        if state.get('location', model.pruning_location) != model.pruning_location:
            runner.logger.warning(
                f'The run was pruned at {state["location"]} and goes on at '
                f'{model.pruning_location}: its centroids have to move to the other features.'
            )
        problem = model.pruner.load_state_dict(state)
        if problem is not None:
            runner.logger.warning(problem)
        self._resumed = True

    def _scores_too_early(self, model: BatchPruningMixin) -> bool:
        scores = model.pruner.selector.needs is not Needs.NOTHING
        scored = model.pruning_mode == 'rescore' and scores
        return scored and self._window.begin < SETTLING_ITERATIONS and any(
            isinstance(module, _BatchNorm) and module.training for module in model.modules()
        )

    def _log(self, runner: Runner, pruner: BatchPruner) -> None:
        self._note_peak_memory()
        seen, kept = pruner.images_seen - self._logged[0], pruner.images_kept - self._logged[1]
        self._logged = (pruner.images_seen, pruner.images_kept)
        if seen == 0:
            return
        scalars = {'seen': seen, 'kept': kept, 'ratio': 1 - kept / seen}
        scalars.update(_mean_over_ranks(pruner.take_interval_metrics()))
        if self.temperature is not None and pruner.phase is Phase.PRUNE:
            selector: Any = pruner.selector
            scalars['temperature'] = selector.temperature
        for name in self._logged_names - scalars.keys():
            # MMEngine repeats the last value of a scalar that is not updated any more.
            runner.message_hub.log_scalars.pop(f'train/pruning/{name}', None)
        self._logged_names = set(scalars)
        # Not returned by the model among its losses: MMEngine would copy each to the host in every
        # iteration, and add those with "loss" in their name to the objective.
        for name, value in scalars.items():
            # Not saved: a stock model that resumes from the checkpoint would log them forever.
            runner.message_hub.update_scalar(f'train/pruning/{name}', value, resumed=False)

    def _note_peak_memory(self) -> None:
        # The logger resets the peak, and it runs after this hook.
        if torch.cuda.is_available():
            self._peak_memory = max(self._peak_memory, torch.cuda.max_memory_allocated())

    def _summary(self, runner: Runner) -> PruningSummary:
        self._note_peak_memory()
        model = pruning_model(runner)
        pruner = model.pruner
        non_finite = torch.tensor(pruner.non_finite_images)
        all_reduce(non_finite)
        random_share = pruner.random_share
        if random_share is not None:
            random_share = _mean_over_ranks({'random_share': random_share})['random_share']
        seen, kept = pruner.images_seen, pruner.images_kept
        pruned_seen = pruner.images_seen_while_pruning
        times = self._times
        share = pruner.iterations_pruned / max(pruner.iteration, 1)
        return PruningSummary(
            selector=type(pruner.selector).__name__,
            location=model.pruning_location,
            mode=model.pruning_mode,
            score_scale=model.pruning_score_scale,
            ratio=pruner.ratio,
            images_seen=seen,
            images_kept=kept,
            ratio_over_run=1 - kept / seen if seen else 0.0,
            ratio_while_pruning=(
                1 - pruner.images_kept_while_pruning / pruned_seen if pruned_seen else None
            ),
            iterations=pruner.iteration,
            iterations_pruned=pruner.iterations_pruned,
            random_share=random_share,
            non_finite_images=int(non_finite),
            peak_memory_bytes=self._peak_memory or None,
            **savings(times.unpruned, times.pruned, times.waiting, share),
        )


def pruning_model(runner: Runner) -> BatchPruningMixin:
    """Return the model of a runner without its wrappers.

    Raises:
        TypeError: If it cannot prune.
    """
    model = unwrapped_model(runner)
    if not isinstance(model, BatchPruningMixin):
        raise TypeError(
            f'Expected a model that prunes, but got {type(model).__name__}; set the model type '
            "to 'mmpfb.PFBEncoderDecoder', 'mmpfb.PFBCascadeEncoderDecoder', "
            "'mmpfb.PFBImageClassifier', 'mmpfb.PFBTimmClassifier' or "
            "'mmpfb.PFBHuggingFaceClassifier', or remove the hook."
        )
    return model


def _check_temperature(temperature: Sequence[float]) -> tuple[float, float]:
    if isinstance(temperature, str) or not isinstance(temperature, Sequence) or (
        len(temperature) != 2
    ):
        raise ValueError(
            'Expected argument `temperature` to be two numbers, at begin and end of pruning, but '
            f'got {temperature!r}.'
        )
    first, last = (check_non_negative('temperature', value) for value in temperature)
    return first, last


def _mode_text(model: BatchPruningMixin) -> str:
    if model.pruning_mode == 'reuse':
        return 'mode reuse'
    return f'mode {model.pruning_mode}, score scale {model.pruning_score_scale:g}'


def _mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    if get_world_size() == 1:
        return values
    means = torch.tensor(list(values.values()), dtype=torch.float64)
    all_reduce(means, 'mean')
    return dict(zip(values, means.tolist(), strict=True))


def _processes(number: int) -> str:
    return f'{number} process{"es" if number > 1 else ""}'


def _logger_interval(runner: Runner) -> int:
    intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return intervals[0] if intervals else 50
