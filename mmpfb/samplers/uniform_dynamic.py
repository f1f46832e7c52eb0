"""Another random subset in every pass (RS2, Okanovic et al., ICLR 2024): what scores have to beat.

Cost: none, no losses and no hook. Saving: ``ratio`` of every pass.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpfb.core.checks import check_bool, check_positive_int
from mmpfb.samplers.base import EpochSampler, Plan


class UniformDynamic(EpochSampler):
    """Chooses images at random, anew in every pass; depends on nothing but seed and pass.

    Without replacement, choices are consecutive pieces of a shuffled data set, which is shuffled
    again when it is exhausted: after any number of choices no image was chosen more than once more
    often than another, up to the piece that two shuffles share. To that piece the later shuffle
    gives its first images that are not in it already, and its others keep their order; so every
    shuffle still holds every image once and no pass holds one twice.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images to prune, in [0, 1).
        replacement: Whether choices are independent of each other. None is ever chosen twice within
            a pass.
        period: Number of passes for which a choice is used.
        **settings: Those of :class:`~mmpfb.samplers.base.EpochSampler`.

    Raises:
        ValueError: If an argument is out of range.
    """

    needs_losses: ClassVar[bool] = False

    def __init__(
        self,
        dataset: Any,
        ratio: float,
        replacement: bool = True,
        period: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(dataset, ratio, **settings)
        self.replacement = check_bool('replacement', replacement)
        self.period = check_positive_int('period', period)
        self._shuffled: tuple[int, int, Tensor] | None = None

    def plan(self, pass_index: int) -> Plan:
        """Choose images at random."""
        choice = pass_index // self.period
        images = self._shuffle(choice)[: self.num_retained] if self.replacement else (
            self._piece(choice)
        )
        return Plan(images.sort().values)

    def _shuffle(self, number: int) -> Tensor:
        return torch.randperm(self.num_images, generator=self.generator(number))

    def _piece(self, choice: int) -> Tensor:
        """Return a piece of the shuffled data set.

        Where two shuffles meet depends on all pieces before. What is left behind the last piece is
        remembered only to save time.
        """
        count = self.num_retained
        done, number, left = self._shuffled or (0, 0, self._shuffle(0))
        if done > choice:
            done, number, left = 0, 0, self._shuffle(0)
        while True:
            if len(left) >= count:
                piece, left = left[:count], left[count:]
            else:
                number += 1
                order = self._shuffle(number)
                new = order[~torch.isin(order, left)][: count - len(left)]
                piece, left = torch.cat([left, new]), order[~torch.isin(order, new)]
            done += 1
            if done > choice:
                self._shuffled = done, number, left
                return piece
