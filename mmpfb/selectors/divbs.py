"""DivBS: retain images whose gradients together represent the batch, without repeating each other.

Paper: Hong et al., Diversified Batch Selection for Training Acceleration, ICML 2024.
Cost: a forward pass of the whole network and its loss for all images, the gradient of the loss with
respect to the output of the last layer, and ``B**2`` inner products.
Read differently: the gradients are those of the loss that is trained with, by automatic
differentiation, not of a cross entropy alone; for dense heads the gradient of an image is the sum
over its pixels (the paper's code has no dense heads); their inner products stand for the gradients.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mmpfb.core.checks import check_bool
from mmpfb.core.orthogonal_selection import select_orthogonal
from mmpfb.core.selection import Selection
from mmpfb.selectors.base import Needs, Selector, register_selector


@register_selector
class DivBS(Selector):
    """Draws images one after the other by what their gradient adds to those chosen before.

    Args:
        greedy: Whether the image that adds most is taken, the objective of the paper, instead of
            drawn with a chance in proportion to it, as the code of its authors does.

    Raises:
        ValueError: If ``greedy`` is no truth value.
    """

    needs: ClassVar[Needs] = Needs.GRADIENTS

    def __init__(self, greedy: bool = False) -> None:
        self.greedy = check_bool('greedy', greedy)

    def select(
        self, features: Tensor, num_retained: int, generator: torch.Generator
    ) -> Selection:
        """Choose images by the inner products of their gradients, of shape ``(B, B)``."""
        # A blocking copy would wait until a GPU has done all work that is queued before it.
        uniform = torch.rand(num_retained, len(features), generator=generator).to(
            features.device, non_blocking=True
        )
        keep, score = select_orthogonal(features, num_retained, None if self.greedy else uniform)
        return Selection(keep, score=score)
