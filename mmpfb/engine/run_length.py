"""Shortens a run: the same training in fewer iterations, its learning rate schedule with it.

A method that leaves images out of an *epoch* makes epochs shorter. A run of a fixed number of
iterations takes as long with it as without: all that changes is that it goes through the data more
often. Its saving is a smaller number of iterations, and a learning rate schedule that ends there.
"""

import copy
from typing import Any

from mmengine.config import Config, ConfigDict

from mmpfb.core.checks import check_positive_int

# Arguments of MMEngine's schedulers that are points of time or lengths of time.
_TIMES = ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size')
_LISTS_OF_TIMES = ('milestones', 'periods')


def iterations_of(config: Config, iterations_per_epoch: int) -> int:
    """Return the number of iterations of a run.

    Args:
        config: Configuration with a ``train_cfg``.
        iterations_per_epoch: Number of batches in one pass over the data.
    """
    loop = config.train_cfg
    if _counts_epochs(config):
        return int(loop.max_epochs) * iterations_per_epoch
    return int(loop.max_iters)


def with_iterations(config: Config, iterations: int, iterations_per_epoch: int) -> Config:
    """Return a configuration that trains for another number of iterations.

    The learning rate schedule is stretched to the new length: warm-up, milestones and the end come
    at the same shares of the run. Intervals of validation and checkpoints are stretched likewise. A
    run in epochs becomes one in iterations, because a number of iterations is seldom a whole number
    of epochs; its schedulers then change the learning rate in every iteration.

    Args:
        config: Configuration of a run in epochs or iterations; it is not changed.
        iterations: Number of iterations of the new run.
        iterations_per_epoch: Number of batches in one pass over the data.

    Raises:
        ValueError: If an argument is out of range, or the schedule or the sampler cannot be
            stretched.
    """
    check_positive_int('iterations', iterations)
    check_positive_int('iterations_per_epoch', iterations_per_epoch)
    share = iterations / iterations_of(config, iterations_per_epoch)
    per_epoch = share * iterations_per_epoch
    changed = copy.deepcopy(config)
    schedulers = changed.get('param_scheduler') or []
    as_list = [schedulers] if isinstance(schedulers, dict) else schedulers
    changed.param_scheduler = [
        _stretched_scheduler(dict(scheduler), share, per_epoch) for scheduler in as_list
    ]
    by_epoch = _counts_epochs(config)
    loop = changed.train_cfg
    interval = loop.get('val_interval', 1 if by_epoch else 1000)
    changed.train_cfg = ConfigDict(
        type='IterBasedTrainLoop',
        max_iters=iterations,
        val_interval=_times(interval, per_epoch if by_epoch else share),
    )
    if 'val_begin' in loop:
        changed.train_cfg.val_begin = _times(loop.val_begin, per_epoch if by_epoch else share)
    hooks: Any = changed.get('default_hooks') or {}
    checkpoint = hooks.get('checkpoint')
    if checkpoint:
        saves_by_epoch = checkpoint.get('by_epoch', True)
        unit = per_epoch if saves_by_epoch else share
        checkpoint.by_epoch = False
        for name in ('interval', 'save_begin'):
            # No interval, or a negative one, means only at the end.
            if checkpoint.get(name, 0) > 0:
                checkpoint[name] = _times(checkpoint[name], unit)
    if by_epoch:
        if hooks.get('logger'):
            hooks.logger.log_metric_by_epoch = False
        changed.log_processor = ConfigDict({**(changed.get('log_processor') or {}),
                                            'by_epoch': False})
        changed.train_dataloader.sampler = _endless(changed.train_dataloader.get('sampler'))
    return changed


def _counts_epochs(config: Config) -> bool:
    loop = config.train_cfg
    return loop.get('type') == 'EpochBasedTrainLoop' or bool(loop.get('by_epoch', False))


def _stretched_scheduler(
    scheduler: dict[str, Any], share: float, per_epoch: float
) -> ConfigDict:
    kind = str(scheduler.get('type'))
    if 'Plateau' in kind:
        raise ValueError(
            f'Expected a learning rate schedule of fixed length, but {kind} follows a metric and '
            'cannot be stretched.'
        )
    by_epoch = scheduler.pop('by_epoch', True)
    scheduler.pop('convert_to_iter_based', None)
    factor = per_epoch if by_epoch else share
    for name in _TIMES:
        value = scheduler.get(name)
        if value is not None and value != float('inf'):
            # A step of zero length would divide by zero, a time of zero length is refused.
            shortest = {'begin': 0, 'end': scheduler.get('begin', 0) + 1}.get(name, 1)
            scheduler[name] = max(round(value * factor), shortest)
    for name in _LISTS_OF_TIMES:
        if scheduler.get(name) is not None:
            scheduler[name] = [max(round(value * factor), 1) for value in scheduler[name]]
    if kind.startswith('Exponential') and 'gamma' in scheduler:
        scheduler['gamma'] = scheduler['gamma'] ** (1 / factor)
    return ConfigDict(scheduler, by_epoch=False)


def _times(interval: Any, factor: float) -> int:
    return max(round(interval * factor), 1)


def _endless(sampler: Any) -> ConfigDict:
    sampler = ConfigDict(sampler or {'type': 'DefaultSampler', 'shuffle': True})
    if sampler.type == 'DefaultSampler':
        return ConfigDict(type='InfiniteSampler', shuffle=sampler.get('shuffle', True))
    if sampler.type == 'InfiniteSampler' or str(sampler.type).startswith('mmpfb.'):
        return sampler
    raise ValueError(
        f"Expected the training sampler to be 'DefaultSampler' or 'InfiniteSampler', but got "
        f'{sampler.type!r}, of which no endless form is known.'
    )
