"""What pruning did over a run: arithmetic on recorded numbers, and its printed form."""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

LONGEST_HISTORY = 2000


class IterationTimes:
    """Durations of the most recent iterations, unpruned and pruned apart.

    Bounded, so that a run of any length needs the same memory. The first iterations of a process
    are left out: they allocate memory and choose algorithms.

    Args:
        warmup: Number of iterations to leave out.
    """

    def __init__(self, warmup: int = 3) -> None:
        self._left_out = warmup
        self.unpruned: deque[float] = deque(maxlen=LONGEST_HISTORY)
        self.pruned: deque[float] = deque(maxlen=LONGEST_HISTORY)
        self.waiting: deque[float] = deque(maxlen=LONGEST_HISTORY)

    def add(self, step: float, waiting: float | None, pruned: bool) -> None:
        """Record one iteration.

        Args:
            step: Seconds of the training step.
            waiting: Seconds that the step waited for its data; None if something else, such as a
                validation, lay in between.
            pruned: Whether images were pruned.
        """
        if self._left_out > 0:
            self._left_out -= 1
            return
        (self.pruned if pruned else self.unpruned).append(step)
        if waiting is not None:
            self.waiting.append(waiting)


@dataclass(frozen=True)
class PruningSummary:
    """The outcome of a run. Times are in seconds, shares and ratios are in [0, 1].

    Attributes:
        selector: Name of the selector.
        location: Where the batch was cut.
        mode: How images were scored, ``'reuse'`` or ``'rescore'``.
        score_scale: Factor on both sides of the images that were scored.
        ratio: Prune ratio that was asked for.
        images_seen: Images that entered the model in training.
        images_kept: Images that passed the cut.
        ratio_over_run: Share of all images that was pruned.
        ratio_while_pruning: Share that was pruned in the pruned iterations; None without any.
        iterations: Number of training iterations.
        iterations_pruned: Number of them in which images were pruned.
        random_share: Part of the retained images that density alone would not have retained, mean
            over the pruned iterations; None if the selector estimates no density.
        non_finite_images: Images with NaN or infinite features.
        seconds_unpruned: Median time of an unpruned step, without waiting for data; None without.
        seconds_pruned: Median time of a pruned step; None without.
        seconds_waiting: Median time that a step waits for its data.
        saved_per_pruned_iteration: Time saved by pruning an iteration, waiting included.
        saved_over_run: Time saved over all iterations, waiting included.
        data_loading_share: Share of an unpruned iteration that is waiting for data.
        peak_memory_bytes: Largest memory allocated on the GPU; None without a GPU.
    """

    selector: str
    location: str
    mode: str
    score_scale: float
    ratio: float
    images_seen: int
    images_kept: int
    ratio_over_run: float
    ratio_while_pruning: float | None
    iterations: int
    iterations_pruned: int
    random_share: float | None
    non_finite_images: int
    seconds_unpruned: float | None
    seconds_pruned: float | None
    seconds_waiting: float | None
    saved_per_pruned_iteration: float | None
    saved_over_run: float | None
    data_loading_share: float | None
    peak_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as a dict that JSON can hold."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a table for people."""
        pruned_share = _percent(self.ratio_while_pruning)
        rows = [
            ('images seen / kept', f'{self.images_seen:,} / {self.images_kept:,}'),
            (
                'ratio really pruned',
                f'{_percent(self.ratio_over_run)} over the run, {pruned_share} while pruning '
                f'(asked for: {_percent(self.ratio)})',
            ),
            ('iterations pruned', f'{self.iterations_pruned:,} of {self.iterations:,}'),
            (
                'step time unpruned / pruned',
                f'{_seconds(self.seconds_unpruned)} / {_seconds(self.seconds_pruned)} '
                '(median, without waiting for data)',
            ),
            (
                'time saved',
                f'{_percent(self.saved_per_pruned_iteration)} per pruned iteration, '
                f'{_percent(self.saved_over_run)} over the run',
            ),
            (
                'data loading',
                'not measured'
                if self.data_loading_share is None
                else f'{_percent(self.data_loading_share)} of an unpruned iteration; pruning does '
                'not reduce it',
            ),
        ]
        if self.iterations_pruned == 0:
            text = 'the run was over before the selector had seen enough images, or before `begin`'
            rows.append(('nothing was pruned', text))
        if self.random_share is not None:
            text = f'{_percent(self.random_share)} of the kept images were not the rarest ones'
            rows.append(('random share', text))
        if self.non_finite_images:
            rows.append(('NaN or infinite features', f'{self.non_finite_images:,} images'))
        if self.peak_memory_bytes is not None:
            rows.append(('peak GPU memory', f'{self.peak_memory_bytes / 2**30:.2f} GiB'))
        width = max(len(name) for name, _ in rows)
        title = f'Pruning summary: {self.selector} at {self.location}, mode {self.mode}'
        if self.mode == 'rescore':
            title += f' at scale {self.score_scale:g}'
        return '\n'.join([title, *(f'  {name:<{width}}  {value}' for name, value in rows)])


def savings(
    unpruned: Iterable[float],
    pruned: Iterable[float],
    waiting: Iterable[float],
    share_of_iterations_pruned: float,
) -> dict[str, float | None]:
    """Return the time fields of :class:`PruningSummary` from recorded durations.

    Medians, because a checkpoint, a validation or a busy machine makes single iterations long.

    Args:
        unpruned: Seconds of unpruned steps.
        pruned: Seconds of pruned steps.
        waiting: Seconds that steps waited for data.
        share_of_iterations_pruned: Share of the iterations of the run that were pruned.
    """
    full, cut, wait = _median(unpruned), _median(pruned), _median(waiting)
    saved = loading = None
    if full is not None:
        whole = full + (wait or 0)
        if whole > 0:
            loading = None if wait is None else wait / whole
            saved = None if cut is None else (full - cut) / whole
    return {
        'seconds_unpruned': full,
        'seconds_pruned': cut,
        'seconds_waiting': wait,
        'saved_per_pruned_iteration': saved,
        'saved_over_run': None if saved is None else saved * share_of_iterations_pruned,
        'data_loading_share': loading,
    }


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return median(values) if values else None


def _percent(value: float | None) -> str:
    return 'not measured' if value is None else f'{100 * value:.1f} %'


def _seconds(value: float | None) -> str:
    return 'not measured' if value is None else f'{value:.3f} s'
