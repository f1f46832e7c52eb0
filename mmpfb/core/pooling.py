"""Pooled representation of a stage output: one vector per image (paper, section 3.4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpfb.core.checks import check_positive_int


def pool_features(output: Any, dim: int | None = 128, channel_axis: int = 1) -> Tensor:
    """Pool the output of any encoder stage to one vector per image.

    The mean over space (or tokens) is followed by an average over groups of neighbouring channels
    if there are more than ``dim``. The result is float32, or float64 for float64 features: under
    autocast a mean over a large map in float16 would overflow.

    Args:
        output: A map ``(B, C, H, W)``, tokens ``(B, L, C)`` or vectors ``(B, C)``; a *tuple* such
            as ``(x, (H, W))`` or Swin's ``(x_down, hw, out, out_hw)``, of which the first tensor is
            what the next stage sees and is pooled; or a *list* of parallel branches (HRNet), which
            are all pooled and joined along the channels.
        dim: Largest number of channels of the result; None pools no channels.
        channel_axis: Where a map with four axes has its channels: 1, or 3 for ``(B, H, W, C)``.

    Returns:
        Tensor of shape ``(B, D)`` with ``D = min(dim, C)``.

    Example:
        >>> pool_features(torch.ones(4, 256, 8, 8)).shape
        torch.Size([4, 128])
        >>> pool_features((torch.ones(4, 64, 96), (8, 8))).shape
        torch.Size([4, 96])

    Raises:
        TypeError: If there is no tensor in ``output`` or it is not floating point.
        ValueError: If ``dim`` is less than 1, ``channel_axis`` is neither 1 nor 3, or a tensor has
            not 2, 3 or 4 axes.
    """
    if dim is not None:
        check_positive_int('dim', dim)
    if channel_axis not in (1, 3):
        raise ValueError(f'Expected `channel_axis` to be 1 or 3, but got {channel_axis!r}.')
    branches = stage_tensors(output)
    pooled = torch.cat([_spatial_mean(branch, channel_axis) for branch in branches], dim=1)
    if dim is not None and pooled.shape[1] > dim:
        pooled = F.adaptive_avg_pool1d(pooled.unsqueeze(1), dim).squeeze(1)
    return pooled


def stage_tensors(output: Any) -> list[Tensor]:
    """Return the tensors of a stage output that represent its images; at least one.

    Args:
        output: See :func:`pool_features`.

    Raises:
        TypeError: If there is no tensor in ``output``.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, list):
        tensors = [item for item in output if isinstance(item, Tensor)]
    elif isinstance(output, tuple):
        tensors = [item for item in output if isinstance(item, Tensor)][:1]
    else:
        tensors = []
    if not tensors:
        raise TypeError(
            'Expected the stage output to be a tensor, or a tuple or list that holds one, '
            f'but got {type(output).__name__}.'
        )
    return tensors


def _spatial_mean(features: Tensor, channel_axis: int) -> Tensor:
    if not features.is_floating_point():
        raise TypeError(f'Expected features to be floating point, but got {features.dtype}.')
    axes = {2: (), 3: (1,), 4: (2, 3) if channel_axis == 1 else (1, 2)}
    if features.dim() not in axes:
        raise ValueError(
            'Expected features of shape (B, C), (B, L, C), (B, C, H, W) or (B, H, W, C), '
            f'but got {tuple(features.shape)}.'
        )
    dtype = torch.promote_types(features.dtype, torch.float32)
    mean_axes = axes[features.dim()]
    return features.mean(mean_axes, dtype=dtype) if mean_axes else features.to(dtype)
