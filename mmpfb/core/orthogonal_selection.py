"""Chooses images whose gradients span the mean gradient of the batch (DivBS, ICML 2024).

Everything is computed from inner products: the part of each gradient that the chosen ones do not
span is followed by one step of a pivoted Cholesky factorisation per chosen image, instead of an
orthogonal basis of gradients with thousands of numbers each.
"""

import torch
from torch import Tensor

from mmpfb.core.importance import gumbel_noise


def select_orthogonal(
    products: Tensor, num_retained: int, uniform: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose images one after the other by what their gradient explains of the mean gradient.

    With gradients ``g_i`` and the residual ``r``, at first the mean gradient, an image is drawn
    with a chance in proportion to ``|<g_i, r>|``. Then the part of ``r`` along the component of
    ``g_i`` that is orthogonal to all images chosen before is taken away.

    Args:
        products: Inner products of the gradients, shape ``(B, B)``. Images whose products are not
            finite are chosen first.
        num_retained: Number of images to choose ``k``.
        uniform: Random numbers in [0, 1) of shape ``(k, B)``; None takes the image of the largest
            chance instead of drawing one.

    Returns:
        Indices of the chosen images in ascending order, shape ``(k,)``, and ``|<g_i, r>|`` with the
        mean gradient, shape ``(B,)``.
    """
    finite = torch.isfinite(products.diagonal())
    pairs = finite[:, None] & finite[None, :]
    products = torch.where(pairs, products, torch.zeros_like(products)).double()
    residual = products.sum(1) / finite.sum().clamp(min=1)
    score = residual.abs()
    left = products.diagonal().clone()
    # Below this a gradient lies in the span of those chosen before but for rounding.
    smallest = 1e-12 * left.amax().clamp(min=torch.finfo(torch.float64).tiny)
    factor = products.new_zeros(len(products), num_retained)
    chosen = torch.zeros_like(finite)
    picks = []
    for step in range(num_retained):
        # Where nothing is left to be explained all that remain have the same chance.
        key = residual.abs().clamp(min=torch.finfo(torch.float64).tiny).log()
        if uniform is not None:
            key = key + gumbel_noise(uniform[step].double())
        key = torch.where(finite, key, torch.inf)
        pick = torch.where(chosen, -torch.inf, key).argmax().view(1)
        picks.append(pick)
        chosen = chosen.index_fill(0, pick, True)
        pivot = left.index_select(0, pick)
        column = products.index_select(1, pick).squeeze(1)
        column = column - factor @ factor.index_select(0, pick).squeeze(0)
        column = torch.where(pivot > smallest, column / pivot.clamp(min=smallest).sqrt(), 0.0)
        explained = residual.index_select(0, pick) / pivot.clamp(min=smallest).sqrt()
        residual = residual - explained * column
        left = left - column.square()
        factor[:, step] = column
    return torch.cat(picks).sort().values, score
