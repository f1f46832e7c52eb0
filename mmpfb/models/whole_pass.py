"""For selectors that need the losses: a pass through the whole network chooses the images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmpfb.core.gate import take_rows
from mmpfb.core.scoring_pass import downscale, traceless
from mmpfb.models.reuse import Decide

Measure = Callable[[nn.Module, Callable[[], Any], int], Tensor]


class WholePass:
    """Measures all images in a pass that ends at the loss, then trains on the retained ones.

    Args:
        measure: Runs the pass of a model on a number of images, and returns what the selector
            needs, a row per image.
        score_scale: Factor in (0, 1] on both sides of the images in this pass.
    """

    def __init__(self, measure: Measure, score_scale: float) -> None:
        self.measure = measure
        self.score_scale = score_scale

    def loss(
        self,
        model: nn.Module,
        stock_loss: Callable[[Tensor], Any],
        images: Tensor,
        decide: Decide,
    ) -> Any:
        """Return the stock loss of the retained images; see :meth:`Reuse.loss`."""
        keep = decide(self._measure(model, stock_loss, images))
        return stock_loss(images if keep is None else take_rows(images, keep, len(images)))

    # A compiler cannot follow the hooks of this pass; what is compiled is the step behind it.
    @torch._dynamo.disable
    def _measure(
        self, model: nn.Module, stock_loss: Callable[[Tensor], Any], images: Tensor
    ) -> Tensor:
        with traceless(model, images.device):
            scaled = downscale(images, self.score_scale)
            return self.measure(model, lambda: stock_loss(scaled), len(images))
