"""``mode='reuse'``: one forward pass, cut in the middle; the paper's way."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mmpfb.core.gate import BatchGate

Decide = Callable[[Any], Tensor | None]


class Reuse:
    """Computes the loss of a batch that is cut at a submodule while the loss is computed.

    Args:
        cut: Submodule at whose output the batch is cut.
        encoder: Module that contains it and returns the outputs of several stages.
    """

    score_scale = 1.0

    def __init__(self, cut: nn.Module, encoder: nn.Module) -> None:
        self._gate = BatchGate(cut, encoder)

    def loss(
        self,
        model: nn.Module,
        stock_loss: Callable[[Tensor], Any],
        images: Tensor,
        decide: Decide,
    ) -> Any:
        """Return the stock loss of the retained images.

        Args:
            model: Model that is cut.
            stock_loss: Computes the loss of the images it is given.
            images: Whole batch of shape ``(B, C, H, W)``.
            decide: Gets the output at the cut and returns the indices to retain, or None for all.
        """
        with self._gate.open(len(images), decide):
            return stock_loss(images)
