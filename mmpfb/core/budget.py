"""How many images of a batch are retained.

``(1 - ratio) * batch_size`` is rarely an integer: two images and a ratio of 0.3 would prune half of
the batch or nothing. The remainder is carried from one iteration to the next, so that the ratio
holds in the long run. All of it is integer arithmetic: no rounding error can add up, and every rank
that sees the same batch sizes retains the same number of images.
"""

import math
from fractions import Fraction

from mmpfb.core.checks import check_positive_int, check_ratio

LARGEST_DENOMINATOR = 1_000_000


def exact_ratio(ratio: float) -> Fraction:
    """Return the fraction that a ratio written in decimals stands for (0.3 is 3/10).

    The float 0.3 is a little less than 3/10. Carried over a long run that difference would show.
    A float that no short fraction stands for, as in a ramp, is taken for what it is.
    """
    short = Fraction(ratio).limit_denominator(LARGEST_DENOMINATOR)
    return short if float(short) == ratio else Fraction(ratio)


def retained_count(iteration: int, batch_size: int, ratio: float, min_keep: int = 1) -> int:
    """Return the number of retained images of one iteration of a run with constant settings.

    The first ``t`` iterations together retain ``floor(t * (1 - ratio) * batch_size)`` images,
    unless ``min_keep`` makes that unreachable. :class:`RetainedBudget` gives the same numbers and
    also follows settings that change.

    Args:
        iteration: Number of pruned iterations before this one.
        batch_size: Number of images in the batch.
        ratio: Share of images to prune, in [0, 1).
        min_keep: Fewest images to retain.

    Example:
        >>> [retained_count(t, batch_size=2, ratio=0.3) for t in range(5)]
        [1, 1, 2, 1, 2]

    Raises:
        ValueError: If an argument is out of range or ``min_keep`` exceeds ``batch_size``.
    """
    check_positive_int('iteration', iteration, minimum=0)
    _check_settings(batch_size, ratio, min_keep)
    per_batch = (1 - exact_ratio(ratio)) * batch_size
    count = math.floor((iteration + 1) * per_batch) - math.floor(iteration * per_batch)
    return max(count, min_keep)


class RetainedBudget:
    """Carries the remainder of ``(1 - ratio) * batch_size`` from one batch to the next.

    The ratio may be ramped and the batch size may change, as for the last batch of an epoch.

    Example:
        >>> budget = RetainedBudget()
        >>> [budget.take(batch_size=2, ratio=0.3) for _ in range(5)]
        [1, 1, 2, 1, 2]
    """

    def __init__(self) -> None:
        self._remainder = Fraction(0)

    def take(self, batch_size: int, ratio: float, min_keep: int = 1) -> int:
        """Return the number of images to retain now and carry the remainder.

        Args:
            batch_size: Number of images in the batch.
            ratio: Share of images to prune, in [0, 1).
            min_keep: Fewest images to retain. A batch that is smaller is retained whole.

        Raises:
            ValueError: If an argument is out of range.
        """
        _check_settings(batch_size, ratio, min_keep=1)
        check_positive_int('min_keep', min_keep)
        due = self._remainder + (1 - exact_ratio(ratio)) * batch_size
        count = min(max(math.floor(due), min_keep), batch_size)
        # A ratio that `min_keep` makes unreachable would pile up a debt without end and distort
        # every later iteration: at most one image is owed.
        self._remainder = max(due - count, Fraction(-1))
        return count

    def state_dict(self) -> dict[str, int]:
        """Return the remainder as two integers."""
        return {'numerator': self._remainder.numerator, 'denominator': self._remainder.denominator}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._remainder = Fraction(int(state['numerator']), int(state['denominator']))


def _check_settings(batch_size: int, ratio: float, min_keep: int) -> None:
    check_positive_int('batch_size', batch_size)
    check_ratio('ratio', ratio)
    check_positive_int('min_keep', min_keep)
    if min_keep > batch_size:
        raise ValueError(
            f'Expected argument `min_keep` to be at most the batch size {batch_size}, '
            f'but got {min_keep}.'
        )
