"""When pruning happens and how strongly: pure arithmetic on iteration numbers."""

from dataclasses import dataclass

from mmpfb.core.checks import check_choice, check_non_negative, check_ratio

UNITS = ('fraction', 'iter', 'epoch')


@dataclass(frozen=True)
class PruningWindow:
    """The iterations ``begin <= iteration < end`` in which images are pruned.

    Attributes:
        begin: First pruned iteration, counted from 0.
        end: First iteration after the window.
    """

    begin: int
    end: int

    def __contains__(self, iteration: int) -> bool:
        return self.begin <= iteration < self.end


def check_window(begin: float, end: float, by: str) -> None:
    """Check the borders of a window before the length of the run is known.

    Args:
        begin: Where pruning starts, in units of ``by``.
        end: Where it stops.
        by: ``'fraction'`` of the run, ``'iter'`` or ``'epoch'``.

    Raises:
        ValueError: If the unit is unknown, ``begin >= end``, or a border cannot be in any run.
    """
    check_choice('by', by, UNITS)
    upper = 1.0 if by == 'fraction' else float('inf')
    for name, value in (('begin', begin), ('end', end)):
        try:
            check_non_negative(name, value, upper)
        except ValueError as error:
            hint = "by='fraction' takes shares of the run, by='iter' and by='epoch' numbers"
            raise ValueError(f'{str(error).rstrip(".")}; {hint}.') from None
        if by != 'fraction' and value != int(value):
            raise ValueError(
                f"Expected argument `{name}` to be a whole number with by='{by}', but got {value}; "
                'set both `begin` and `end`.'
            )
    if begin >= end:
        raise ValueError(
            f'Expected argument `begin` to be less than `end`, but got begin={begin}, end={end}.'
        )


def resolve_window(
    begin: float, end: float, by: str, total_iterations: int, iterations_per_epoch: int
) -> PruningWindow:
    """Translate a window into iterations of a run.

    Args:
        begin: Where pruning starts, in units of ``by``.
        end: Where it stops.
        by: ``'fraction'`` of the run, ``'iter'`` or ``'epoch'``.
        total_iterations: Length of the run.
        iterations_per_epoch: Length of one pass over the data.

    Example:
        >>> resolve_window(0.05, 0.9, 'fraction', total_iterations=1000, iterations_per_epoch=50)
        PruningWindow(begin=50, end=900)

    Raises:
        ValueError: If the window is not legal, lies outside the run, or holds no iteration.
    """
    check_window(begin, end, by)
    unit = {'fraction': total_iterations, 'iter': 1, 'epoch': iterations_per_epoch}[by]
    window = PruningWindow(round(begin * unit), round(end * unit))
    if window.end > total_iterations:
        raise ValueError(
            f'Expected argument `end` to lie inside the run of {total_iterations} iterations, '
            f"but got end={end} with by='{by}', which is iteration {window.end}."
        )
    if window.begin >= window.end:
        raise ValueError(
            f'Expected at least one iteration between `begin` and `end`, but begin={begin} and '
            f"end={end} with by='{by}' are both iteration {window.begin} of a run of "
            f'{total_iterations}.'
        )
    return window


def scheduled_ratio(
    iteration: int, window: PruningWindow, ratio: float, ramp: float = 0.0, ramp_from: float = 0.0
) -> float:
    """Return the prune ratio of one iteration; 0 outside of the window.

    Args:
        iteration: Iteration, counted from 0.
        window: Iterations in which images are pruned.
        ratio: Full prune ratio.
        ramp: Share of the window over which the ratio rises linearly, in [0, 1].
        ramp_from: Share of ``ratio`` at which the ramp begins, in [0, 1].

    Example:
        >>> window = PruningWindow(100, 200)
        >>> [scheduled_ratio(t, window, 0.5, ramp=0.5) for t in (99, 100, 125, 150, 199, 200)]
        [0.0, 0.0, 0.25, 0.5, 0.5, 0.0]

    Raises:
        ValueError: If ``ratio``, ``ramp`` or ``ramp_from`` is out of range.
    """
    check_ratio('ratio', ratio)
    check_non_negative('ramp', ramp, upper=1)
    check_non_negative('ramp_from', ramp_from, upper=1)
    if iteration not in window:
        return 0.0
    rising = ramp * (window.end - window.begin)
    done = iteration - window.begin
    if done >= rising:
        return ratio
    return ratio * (ramp_from + (1 - ramp_from) * done / rising)


def linear_between(iteration: int, window: PruningWindow, first: float, last: float) -> float:
    """Return a value that goes in a straight line from the first pruned iteration to the last one.

    Args:
        iteration: Iteration, counted from 0; outside of the window the nearer end counts.
        window: Iterations in which images are pruned.
        first: Value in the first iteration of the window.
        last: Value in its last iteration.

    Example:
        >>> [linear_between(t, PruningWindow(10, 15), 0.0, 2.0) for t in (0, 10, 12, 14, 20)]
        [0.0, 0.0, 1.0, 2.0, 2.0]
    """
    steps = max(window.end - window.begin - 1, 1)
    done = min(max(iteration - window.begin, 0), steps) / steps
    return first + (last - first) * done
