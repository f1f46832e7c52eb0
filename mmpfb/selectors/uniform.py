"""Uniform random choice at the cut: the baseline that every score has to beat.

Cost: none. It reads no features and has no state; what it saves is what the cut saves.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mmpfb.core.importance import lowest, random_ranks
from mmpfb.core.selection import Selection
from mmpfb.selectors.base import Needs, Selector, register_selector


@register_selector
class Uniform(Selector):
    """Keeps a uniformly random subset of each batch."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def select(
        self, features: Tensor, num_retained: int, generator: torch.Generator
    ) -> Selection:
        """Choose images at random, without looking at the features."""
        keep = lowest(random_ranks(len(features), generator), num_retained)
        # A blocking copy would wait until a GPU has done all work that is queued before it.
        return Selection(keep.to(features.device, non_blocking=True))
