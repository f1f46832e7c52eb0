"""Epsilon-greedy choice (Raju et al. 2021): images of high loss, and some at random.

Cost: one sort of the scores per choice. Saving: ``ratio`` of all passes but the first.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mmpfb.core.budget import exact_ratio
from mmpfb.core.checks import check_non_negative
from mmpfb.samplers.moving_average import MovingAverageSampler


class EpsilonGreedy(MovingAverageSampler):
    """Keeps images with the largest mean loss, and a share of ``epsilon`` chosen from the rest.

    Of ``k`` images that stay ``floor(epsilon * k)`` are drawn uniformly from those that are not
    among the others. Images without a score are always kept, even if the ratio would leave fewer.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images to prune, in [0, 1).
        epsilon: Share of the retained images that is random, in [0, 1].
        alpha: Weight of a new loss in the averages, in (0, 1].
        period: Number of passes for which a choice is used.
        **settings: Those of :class:`~mmpfb.samplers.base.EpochSampler`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        ratio: float,
        epsilon: float = 0.1,
        alpha: float = 0.8,
        period: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(dataset, ratio, alpha, period, **settings)
        self.epsilon = check_non_negative('epsilon', epsilon, upper=1)

    def choose(self, pass_index: int) -> Tensor:
        """Return the images with the largest means and random others."""
        order, num_unknown = self.ranked(self._scores['mean'])
        count = max(self.num_retained, num_unknown)
        num_random = min(math.floor(exact_ratio(self.epsilon) * count), count - num_unknown)
        best, rest = order[: count - num_random], order[count - num_random :]
        drawn = torch.randperm(len(rest), generator=self.generator(pass_index))[:num_random]
        return torch.cat([best, rest[drawn]])
