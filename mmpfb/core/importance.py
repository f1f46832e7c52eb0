"""From densities to the images that stay (paper, Eqs. 1 to 3), as functions.

An image is the more important the *lower* its density is, so everything here keeps low values. The
random numbers, or the generator of them, are arguments.
"""

import math

import torch
from torch import Tensor


def add_random_term(log_density: Tensor, uniform: Tensor, random_bound: float) -> Tensor:
    """Return ``log(f_i + r_i)`` with ``r_i = alpha_i * max f`` and ``alpha_i ~ U(0, b)`` (Eq. 3).

    The coefficient is drawn for every image: one draw for the whole batch would add the same number
    to all densities and never change their order.

    Args:
        log_density: Log densities of shape ``(B,)``.
        uniform: Random numbers in [0, 1) of shape ``(B,)``.
        random_bound: Upper bound ``b`` of the coefficient.
    """
    if random_bound == 0:
        return log_density
    log_alpha = uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log() + math.log(random_bound)
    perturbed = torch.logaddexp(log_density, log_alpha + log_density.max())
    # An image with no finite density stays the most important one, whatever is drawn.
    return torch.where(torch.isneginf(log_density), log_density, perturbed)


def perturb_tempered(log_density: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Return keys whose lowest ``k`` are a density-weighted random choice without replacement.

    Image ``i`` has the log-weight ``-temperature * standardised log density``. Adding Gumbel noise
    and taking the largest is the same as drawing one after the other without replacement; with
    ``temperature=0`` every image has the same chance.

    Args:
        log_density: Log densities of shape ``(B,)``; minus infinity is always drawn first.
        uniform: Random numbers in [0, 1) of shape ``(B,)``.
        temperature: Strength of the preference for rare images.
    """
    keys = temperature * standardised(log_density) - gumbel_noise(uniform)
    return torch.where(torch.isneginf(log_density), log_density, keys)


def perturb_ranked(losses: Tensor, uniform: Tensor, share_retained: float) -> Tensor:
    """Return keys whose lowest ``k`` are a random choice that prefers high losses.

    The image of rank ``i`` of ``B``, counted from 0 and from the lowest loss, is drawn with the
    weight ``((i + 0.5) / B) ** (1 / share_retained - 1)``, without replacement (the rule of
    Selective-Backprop in MosaicML's Composer).

    Args:
        losses: Losses of shape ``(B,)``; those that are not finite are always drawn first.
        uniform: Random numbers in [0, 1) of shape ``(B,)``.
        share_retained: Share of the batch that is retained, in (0, 1].
    """
    order = torch.sort(losses, stable=True).indices
    rank = torch.sort(order).indices
    percentile = (rank + 0.5) / len(losses)
    keys = -(1 / share_retained - 1) * percentile.log() - gumbel_noise(uniform)
    return torch.where(torch.isfinite(losses), keys, -torch.inf)


def random_ranks(batch_size: int, generator: torch.Generator) -> Tensor:
    """Return the rank of every image in a random order; the lowest ``k`` are a uniform choice."""
    return torch.randperm(batch_size, generator=generator).argsort()


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Return standard Gumbel numbers from uniform ones in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()


def standardised(values: Tensor) -> Tensor:
    """Return values with zero mean and unit deviation over the finite ones; 0 if all are equal."""
    finite = torch.isfinite(values)
    count = finite.sum().clamp(min=1)
    zero = torch.zeros_like(values)
    known = torch.where(finite, values, zero)
    centred = torch.where(finite, values - known.sum() / count, zero)
    largest = centred.abs().amax()
    # Scaled first: the square of a log density of a far outlier overflows.
    scaled = centred / largest.clamp(min=torch.finfo(values.dtype).tiny)
    deviation = (scaled.square().sum() / count).sqrt()
    # Equal values differ from their mean by rounding.
    spread = largest > 8 * torch.finfo(values.dtype).eps * known.abs().amax()
    return torch.where(spread, scaled / deviation, zero)


def lowest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` lowest values in ascending order of index.

    The number is exact whatever the ties, and the shape does not depend on the data, so that no
    device has to be waited for. Ties go to the image that comes first.
    """
    order = torch.sort(values, stable=True).indices
    return order[:count].sort().values


def share_not_in(chosen: Tensor, reference: Tensor) -> Tensor:
    """Return the share of ``chosen`` indices that ``reference`` does not hold, scalar tensor."""
    found = chosen[:, None] == reference[None, :]
    return 1 - found.sum() / chosen.numel()
