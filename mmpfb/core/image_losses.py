"""Losses of single images, read off the loss functions of a model while they run.

Models compute one number for a batch. Calling a loss function again on one row at a time gives the
loss of every image, whatever the function is and however the head calls it; compared with the
network, a loss function costs next to nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmpfb.core.gate import tensors_of
from mmpfb.errors import ImageLossError


class ImageLosses:
    """What the loss modules of a model computed for each image of one batch.

    Args:
        batch_size: Number of images in the batch ``B``.
        weights: Weights of the images of shape ``(B,)``; None leaves the losses as they are.
    """

    def __init__(self, batch_size: int, weights: Tensor | None = None) -> None:
        self.batch_size = batch_size
        self._weights = weights
        self._losses: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._returned: list[Tensor] = []

    @property
    def per_image(self) -> Tensor:
        """Sum of all losses of each image, float32 of shape ``(B,)``, without gradients.

        Raises:
            ImageLossError: If no loss module ran.
        """
        return _sum(self._losses)

    @property
    def of_batch(self) -> Tensor:
        """Sum of what the loss modules computed for the batch, without weights; a scalar.

        Raises:
            ImageLossError: If no loss module ran.
        """
        return _sum(self._outputs)

    @property
    def objective(self) -> Tensor:
        """Sum of what the model got from its loss modules, with weights if there are any; a scalar.

        Raises:
            ImageLossError: If no loss module ran.
        """
        return _sum(self._returned)

    def add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Take down the losses of the images in one call of a loss module; a forward hook.

        Returns:
            The weighted mean over the images, or None where nothing is weighted or the call asks
            for losses that are not reduced.

        Raises:
            ImageLossError: If the rows that the module was given are not the images.
        """
        if kwargs.get('reduction_override') == 'none':
            # Not a part of the objective: so samplers of hard pixels ask which of them are hard.
            return None
        self._check(module, args, kwargs, output)
        with torch.set_grad_enabled(self._weights is not None and torch.is_grad_enabled()):
            rows = range(self.batch_size)
            losses = torch.stack(
                [module.forward(*self._row(args, i), **self._row(kwargs, i)) for i in rows]
            )
        self._losses.append(losses.detach().float())
        self._outputs.append(output.detach().float())
        weighted = None if self._weights is None else (self._weights.to(losses) * losses).mean()
        self._returned.append((output if weighted is None else weighted).detach().float())
        return weighted

    def _check(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = next(tensors_of([*args, *kwargs.values()]), None)
        if given is None or not given.ndim or len(given) != self.batch_size:
            shape = 'nothing' if given is None else f'a tensor of shape {tuple(given.shape)}'
            raise ImageLossError(
                f'Expected {type(module).__name__} to be given one row for each of the '
                f'{self.batch_size} images, but it got {shape}: there is no loss of an image.'
            )
        if not isinstance(output, Tensor) or output.ndim:
            raise ImageLossError(
                f'Expected {type(module).__name__} to return one number for the batch; losses with '
                "reduction='none' are not supported."
            )

    def _row(self, value: Any, index: int) -> Any:
        """Return arguments with the row of one image in place of the batch."""
        if isinstance(value, Tensor):
            is_batch = value.ndim > 0 and len(value) == self.batch_size
            return value[index : index + 1] if is_batch else value
        if isinstance(value, dict):
            # The host's heads divide the sum over the batch by its size.
            return {
                key: 1 if key == 'avg_factor' and item == self.batch_size
                else self._row(item, index)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return type(value)(self._row(item, index) for item in value)
        return value


def _sum(values: list[Tensor]) -> Tensor:
    if not values:
        raise ImageLossError('Expected the loss modules of the model to run, but none did.')
    return torch.stack(values).sum(0)


@contextmanager
def recording_image_losses(
    modules: Iterable[nn.Module], batch_size: int, weights: Tensor | None = None
) -> Iterator[ImageLosses]:
    """Record the losses of single images while the loss modules of a model run.

    Args:
        modules: Loss modules, each of which gets one row per image.
        batch_size: Number of images in the batch ``B``.
        weights: Weights of shape ``(B,)``: then every module returns the mean of the weighted
            losses of the images. None leaves what the modules return untouched.

    Example:
        >>> loss = nn.CrossEntropyLoss()
        >>> with recording_image_losses([loss], batch_size=2) as recorded:
        ...     _ = loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0]))
        >>> recorded.per_image.round(decimals=2)
        tensor([0.6900, 0.0000])
    """
    losses = ImageLosses(batch_size, weights)
    handles = [module.register_forward_hook(losses.add, with_kwargs=True) for module in modules]
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()
