"""Moving averages of losses, as in Raju et al. 2021, and the ranking by them."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpfb.core.checks import check_positive_int, check_share
from mmpfb.samplers.base import EpochSampler, Plan


class MovingAverageSampler(EpochSampler):
    """Keeps mean and variance of the losses of each image; chooses every few passes.

    A loss ``u`` changes the mean ``m`` to ``(1 - alpha) m + alpha u`` and the variance ``v`` to
    ``(1 - alpha) v + alpha (u - m)^2`` with the mean from before. The first loss of an image is its
    mean, with a variance of zero. Images that are not trained on keep both. The first pass is full.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images to prune, in [0, 1).
        alpha: Weight of a new loss, in (0, 1].
        period: Number of passes for which a choice is used. One by default: a choice is cheap next
            to a pass, and with ten, as a public version of the method has it, a short run would
            choose a few times only.
        **settings: Those of :class:`~mmpfb.samplers.base.EpochSampler`.

    Raises:
        ValueError: If an argument is out of range.
    """

    score_names: ClassVar[tuple[str, ...]] = ('mean', 'variance')

    def __init__(
        self, dataset: Any, ratio: float, alpha: float = 0.8, period: int = 1, **settings: Any
    ) -> None:
        super().__init__(dataset, ratio, **settings)
        self.alpha = check_share('alpha', alpha)
        self.period = check_positive_int('period', period)

    def update(self, images: Tensor, losses: Tensor) -> None:
        """Move the averages of images."""
        mean, variance = self._scores['mean'][images], self._scores['variance'][images]
        is_first = mean.isnan()
        moved = (1 - self.alpha) * variance + self.alpha * (losses - mean) ** 2
        self._scores['variance'][images] = moved.masked_fill(is_first, 0.0)
        # Unlike a sum of products it gives a loss that stays the same exactly that mean.
        moved = torch.lerp(mean, losses, self.alpha)
        self._scores['mean'][images] = torch.where(is_first, losses, moved)

    def plan(self, pass_index: int) -> Plan:
        """Choose anew, or go on with the images of the pass before."""
        before = self._plans.get(pass_index - 1)
        # Pass 0 is full, so the first choice is that of pass 1.
        if before is not None and (pass_index - 1) % self.period:
            return before
        return Plan(self.choose(pass_index).sort().values)

    @abstractmethod
    def choose(self, pass_index: int) -> Tensor:
        """Return the images of a new choice, int64 of shape ``(k,)``."""

    def ranked(self, scores: Tensor) -> tuple[Tensor, int]:
        """Return images by falling score, ties by number, and how many have none.

        Those without a finite mean come first.
        """
        is_unknown = ~self._scores['mean'].isfinite()
        order = scores.masked_fill(is_unknown, torch.inf).sort(descending=True, stable=True)
        return order.indices, int(is_unknown.sum())
