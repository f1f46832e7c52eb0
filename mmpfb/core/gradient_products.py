"""Inner products of the last layer's gradients of single images (DivBS, Hong et al., ICML 2024).

The gradient of an image's loss with respect to the weights of a linear layer is the sum over all
positions of ``output gradient x input``: one position for a classifier, all pixels for a dense
head. A choice among images needs the inner products of these matrices, not the matrices.
"""

import torch
from torch import Tensor


def gradient_products(inputs: Tensor, output_gradients: Tensor) -> Tensor:
    """Return the inner products between the weight gradients of the images of a batch.

    Args:
        inputs: What the layer was given, of shape ``(B, D, P)`` for ``P`` positions.
        output_gradients: Gradient of the loss with respect to its output, ``(B, C, P)``.

    Returns:
        Symmetric matrix of shape ``(B, B)``, float32 or wider.

    Example:
        >>> inputs = torch.tensor([[[1.0]], [[2.0]]])
        >>> gradient_products(inputs, torch.tensor([[[3.0], [0.0]], [[1.0], [1.0]]]))
        tensor([[9., 6.],
                [6., 8.]])
    """
    inputs, output_gradients = _at_least_float32(inputs), _at_least_float32(output_gradients)
    if inputs.shape[2] == 1:
        # Of rank one: the product of two products, without the (B, C, D) matrices.
        inputs, output_gradients = inputs[..., 0], output_gradients[..., 0]
        return (inputs @ inputs.T) * (output_gradients @ output_gradients.T)
    gradients = (output_gradients @ inputs.transpose(1, 2)).flatten(1)
    return gradients @ gradients.T


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
