"""Selective-Backprop: prefer the images of high loss.

Paper: Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019; the rule is
the one of MosaicML's Composer, which draws a fixed number of images per batch.
Cost: a forward pass of the whole network and its loss for all images, without gradients.
Read differently: the pass runs in evaluation mode, so that no batch normalisation is updated twice,
and there is no `interrupt` (Composer prunes every other batch): the schedule says when.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mmpfb.core.importance import lowest, perturb_ranked
from mmpfb.core.selection import Selection
from mmpfb.selectors.base import Needs, Selector, register_selector


@register_selector
class HighLoss(Selector):
    """Draws images with a chance that grows with the rank of their loss in the batch."""

    needs: ClassVar[Needs] = Needs.LOSSES

    def select(
        self, features: Tensor, num_retained: int, generator: torch.Generator
    ) -> Selection:
        """Choose images by their losses, of shape ``(B, 1)``."""
        losses = features[:, 0]
        # A blocking copy would wait until a GPU has done all work that is queued before it.
        uniform = torch.rand(len(losses), generator=generator).to(losses, non_blocking=True)
        key = perturb_ranked(losses, uniform, num_retained / len(losses))
        return Selection(lowest(key, num_retained), score=losses)
