"""InfoBatch (Qin et al., ICLR 2024): skips some images of low loss, weighs the others of them more.

Cost: one sort or mean of the scores per pass. Saving: at most ``ratio`` times the share of images
below the threshold, so with the mean some 20 to 40 % at a ratio of 0.5, and nothing at the end.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpfb.core.budget import exact_ratio
from mmpfb.core.checks import check_non_negative, check_share
from mmpfb.samplers.base import EpochSampler, Plan


class InfoBatch(EpochSampler):
    """Keeps a random part of the images whose last loss is below a threshold, with larger weights.

    Of the set ``L`` of images below the threshold ``floor((1 - ratio) * |L|)`` are kept, at least
    one, and weigh ``|L|`` over that number; all others are kept with weight one. The expected
    gradient is that of all images. (The publication gives them ``1 / (1 - ratio)``, which leaves
    out that the number was rounded down; the difference is below ``1 / |L|``.) The first pass is
    full.

    The last passes are full and without weights. By passes: those with a number, from zero, of at
    least ``anneal`` times that of all passes, and always the last one. By indices, in an
    iteration-based loop: those that begin at or after ``anneal`` times all of them, and any that,
    pruned, would not end before the run does. So no run ends with a pruned pass.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images below the threshold to prune, in [0, 1).
        threshold: ``'mean'`` of the scores, or a percentile of them in [0, 100].
        anneal: Share of the run after which nothing is pruned, in (0, 1]; 1 is never.
        **settings: Those of :class:`~mmpfb.samplers.base.EpochSampler`.

    Raises:
        ValueError: If an argument is out of range.
    """

    score_names: ClassVar[tuple[str, ...]] = ('loss',)

    def __init__(
        self,
        dataset: Any,
        ratio: float = 0.5,
        threshold: str | float = 'mean',
        anneal: float = 0.875,
        **settings: Any,
    ) -> None:
        super().__init__(dataset, ratio, **settings)
        if threshold != 'mean':
            if isinstance(threshold, str):
                raise ValueError(
                    "Expected argument `threshold` to be 'mean' or a percentile in [0, 100], but "
                    f'got {threshold!r}.'
                )
            threshold = check_non_negative('threshold', threshold, upper=100)
        self.threshold = threshold
        self.anneal = check_share('anneal', anneal)

    def update(self, images: Tensor, losses: Tensor) -> None:
        """Replace the losses of images."""
        self._scores['loss'][images] = losses

    def plan(self, pass_index: int) -> Plan:
        """Choose among the images below the threshold, unless the run is about to end."""
        plan = self._pruned(pass_index)
        return self.full_plan() if self._ends_full(pass_index, plan) else plan

    def _pruned(self, pass_index: int) -> Plan:
        losses = self._scores['loss']
        finite = losses[losses.isfinite()].double()
        if not len(finite):
            return self.full_plan()
        limit = finite.mean() if self.threshold == 'mean' else percentile(finite, self.threshold)
        is_low = losses.double() < limit
        low = is_low.nonzero().flatten()
        if not len(low):
            return self.full_plan()
        num_kept = max(math.floor((1 - exact_ratio(self.ratio)) * len(low)), 1)
        order = torch.randperm(len(low), generator=self.generator(pass_index))
        kept = low[order[:num_kept]]
        is_chosen = ~is_low
        is_chosen[kept] = True
        weights = None
        if num_kept < len(low):
            weights = torch.ones(self.num_images)
            weights[kept] = len(low) / num_kept
        return Plan(is_chosen.nonzero().flatten(), weights)

    def _ends_full(self, pass_index: int, pruned: Plan) -> bool:
        if self.anneal == 1:
            return False
        if self.run_length is None:
            raise RuntimeError(
                'Expected the length of the run to be known before the second pass; call '
                '`set_run_length`, or pass `anneal=1` to prune until the end.'
            )
        full_from = exact_ratio(self.anneal) * self.run_length
        if self.run_unit == 'pass':
            return pass_index >= min(full_from, self.run_length - 1)
        start = self.start_of(pass_index)
        return start >= full_from or start + self.span_of(pruned) >= self.run_length


def percentile(values: Tensor, percent: float | str) -> Tensor:
    """Return a percentile, linear between the two values beside it.

    ``torch.quantile`` is the same but refuses more than 16 million values.

    Example:
        >>> percentile(torch.tensor([1.0, 2.0, 4.0]), 75)
        tensor(3.)
    """
    ordered = values.sort().values
    place = (len(values) - 1) * float(percent) / 100
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
