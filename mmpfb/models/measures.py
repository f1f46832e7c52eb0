"""What selectors need to know from a pass through the whole network, for OpenMMLab models."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpfb.core.gradient_products import gradient_products
from mmpfb.core.image_losses import recording_image_losses
from mmpfb.errors import ImageLossError
from mmpfb.models.loss_modules import loss_modules

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def image_losses(model: nn.Module, run: Callable[[], Any], batch_size: int) -> Tensor:
    """Return the loss of each image, shape ``(B, 1)``, of a pass that computes the loss."""
    with recording_image_losses(loss_modules(model), batch_size) as recorded:
        run()
    return recorded.per_image[:, None]


class LastLayerGradients:
    """Returns the inner products of the gradients of a head's last layer.

    The layer is found in the first pass: the last linear or convolutional layer of the head to run.

    Args:
        head: Name of the child of the model that ends in the layer.
    """

    def __init__(self, head: str) -> None:
        self.head = head
        self._path: str | None = None

    def __call__(self, model: nn.Module, run: Callable[[], Any], batch_size: int) -> Tensor:
        """Return the inner products of shape ``(B, B)`` from a pass that computes the loss.

        Raises:
            ImageLossError: If the head has no such layer, or its gradients are not those of images.
        """
        if self._path is None:
            self._path = self._find(model, run)
        layer = model.get_submodule(self._path)
        seen: list[tuple[Tensor, Tensor]] = []

        def begin_gradients(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            # What follows the layer is differentiated, and nothing before it; in float32, because
            # the gradient of a single pixel is too small for half precision.
            torch.set_grad_enabled(True)
            output = output.detach().float().requires_grad_()
            seen.append((args[0].detach(), output))
            return output

        handle = layer.register_forward_hook(begin_gradients)
        # Leaves the grad mode as it was, which the hook changes.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            try:
                losses = run()
            finally:
                handle.remove()
            total, _ = model.parse_losses(losses)  # type: ignore[operator]
            outputs = [output for _, output in seen]
            gradients = torch.autograd.grad(total, outputs, allow_unused=True)
        positions = [
            _positions(layer, given, gradient, batch_size)
            for (given, _), gradient in zip(seen, gradients, strict=True)
            if gradient is not None
        ]
        if not positions:
            raise ImageLossError(
                f'Expected the loss to depend on the output of {self._path}, the last layer of '
                f'{self.head}, but it does not.'
            )
        inputs, outputs_gradients = zip(*positions, strict=True)
        return gradient_products(torch.cat(inputs, 2), torch.cat(outputs_gradients, 2))

    def _find(self, model: nn.Module, run: Callable[[], Any]) -> str:
        ran: list[str] = []
        layers = [
            (f'{self.head}.{path}' if path else self.head, module)
            for path, module in model.get_submodule(self.head).named_modules()
            if isinstance(module, _LAYERS)
        ]
        handles = [
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
            for path, module in layers
        ]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        if not ran:
            raise ImageLossError(
                f'Expected {self.head} to end in a linear or convolutional layer, but none ran; '
                'gradients of single images cannot be computed for this model.'
            )
        return ran[-1]


def _positions(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return inputs ``(B, D, P)`` and output gradients ``(B, C, P)`` at all positions."""
    if len(inputs) != batch_size or len(gradients) != batch_size:
        raise ImageLossError(
            f'Expected the last layer to be given one row for each of {batch_size} images, but it '
            f'got {tuple(inputs.shape)}: the gradients of single images cannot be told apart.'
        )
    if isinstance(layer, nn.Linear):
        flat = [tensor.reshape(batch_size, -1, tensor.shape[-1]) for tensor in (inputs, gradients)]
        return flat[0].transpose(1, 2).float(), flat[1].transpose(1, 2)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    pointwise = {*layer.kernel_size, *layer.stride} == {1}
    if layer.groups != 1 or not (pointwise or isinstance(layer, nn.Conv2d)):
        raise ImageLossError(
            f'Expected a last layer without groups and with a kernel of size 1, but got {layer}; '
            'gradients of single images are not computed for it.'
        )
    if not pointwise:
        inputs = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return inputs.flatten(2).float(), gradients.flatten(2)
