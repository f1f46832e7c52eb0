"""Upper confidence bound (Raju et al. 2021): trains on the images of high and of changing loss.

Cost: one sort of the scores per choice. Saving: ``ratio`` of all passes but the first.
"""

from typing import Any

from torch import Tensor

from mmpfb.core.checks import check_non_negative
from mmpfb.samplers.moving_average import MovingAverageSampler


class UCB(MovingAverageSampler):
    """Keeps the images with the largest mean plus ``confidence`` times variance of their losses.

    Images without a score are always kept, even if the ratio would leave fewer.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images to prune, in [0, 1).
        alpha: Weight of a new loss in the averages, in (0, 1].
        confidence: Weight of the variance (not its root), at least 0.
        period: Number of passes for which a choice is used.
        **settings: Those of :class:`~mmpfb.samplers.base.EpochSampler`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        ratio: float,
        alpha: float = 0.8,
        confidence: float = 1.0,
        period: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(dataset, ratio, alpha, period, **settings)
        self.confidence = check_non_negative('confidence', confidence)

    def choose(self, pass_index: int) -> Tensor:
        """Return the images with the largest bounds."""
        bounds = self._scores['mean'] + self.confidence * self._scores['variance']
        order, num_unknown = self.ranked(bounds)
        return order[: max(self.num_retained, num_unknown)]
