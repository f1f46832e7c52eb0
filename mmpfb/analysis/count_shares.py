"""How often each number of retained images is met in a long run at one ratio."""

import math
from fractions import Fraction

from mmpfb.core.budget import exact_ratio
from mmpfb.core.checks import check_positive_int, check_ratio


def count_shares(batch_size: int, ratio: float, min_keep: int = 1) -> dict[int, Fraction]:
    """Return the numbers of images that are retained in turn, and how often each of them is.

    They are those of :class:`mmpfb.core.budget.RetainedBudget`: the two whole numbers around
    ``(1 - ratio) * batch_size``, or one number if that is whole itself or below ``min_keep``.

    Args:
        batch_size: Number of images in the batch.
        ratio: Share of images to prune, in [0, 1).
        min_keep: Fewest images to retain.

    Returns:
        Counts in ascending order and their shares, which add up to 1.

    Example:
        >>> count_shares(batch_size=8, ratio=0.7)
        {2: Fraction(3, 5), 3: Fraction(2, 5)}

    Raises:
        ValueError: If an argument is out of range.
    """
    check_positive_int('batch_size', batch_size)
    check_ratio('ratio', ratio)
    check_positive_int('min_keep', min_keep)
    wanted = (1 - exact_ratio(ratio)) * batch_size
    if wanted <= min_keep:
        return {min(min_keep, batch_size): Fraction(1)}
    lower = math.floor(wanted)
    shares = {lower: 1 - (wanted - lower), lower + 1: wanted - lower}
    return {count: share for count, share in shares.items() if share}
