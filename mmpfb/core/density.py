r"""Balanced kernel density estimation on centroids (paper, section 3.4), as functions.

Everything is in log space. In 128 dimensions the log densities of one batch spread over tens of
nats and their absolute values over hundreds, far outside of what ``exp`` can represent in float32.
"""

import math

import torch
from torch import Tensor

from mmpfb.core.checks import check_choice

BANDWIDTH_RULES = ('silverman', 'scott', 'identity')

# A channel that a ReLU silenced has no spread over the centroids at all, and a kernel of width zero
# there would let it alone decide. Its spread is taken to be at least this share of the root mean
# square spread of all channels.
SMALLEST_RELATIVE_SPREAD = 1e-2


def bandwidth_variance(centroids: Tensor, rule: str = 'silverman') -> Tensor:
    r"""Return the diagonal of the kernel's covariance matrix (Eq. 6, Tab. 6).

    ``h_d = (factor * sigma_d)^2`` with the sample standard deviation ``sigma_d`` of the centroids
    in dimension ``d``; the factor is ``(4 / ((D + 2) N_C))^(1 / (D + 4))`` for Silverman's rule and
    ``N_C^(-1 / (D + 4))`` for Scott's. ``'identity'`` is 1 everywhere.

    Args:
        centroids: Centroids of shape ``(N_C, D)`` with ``N_C >= 2``.
        rule: ``'silverman'``, ``'scott'`` or ``'identity'``.

    Returns:
        Variances of shape ``(D,)``, all above zero.

    Raises:
        ValueError: If the rule is unknown.
    """
    check_choice('rule', rule, BANDWIDTH_RULES)
    num_centroids, dim = centroids.shape
    if rule == 'identity':
        return torch.ones_like(centroids[0])
    base = 4 / ((dim + 2) * num_centroids) if rule == 'silverman' else 1 / num_centroids
    factor = base ** (1 / (dim + 4))
    # Not `Tensor.std`, which is several times slower along the first axis on a CPU.
    deviation = centroids - centroids.mean(dim=0)
    spread = deviation.square_().sum(dim=0) / (num_centroids - 1)
    # Centroids that are all equal have no spread to take a share of.
    smallest = torch.finfo(centroids.dtype).eps ** 2
    floor = (SMALLEST_RELATIVE_SPREAD**2 * spread.mean()).clamp(min=smallest)
    return factor**2 * torch.maximum(spread, floor)


def log_density(x: Tensor, centroids: Tensor, weight: Tensor, variance: Tensor) -> Tensor:
    r"""Return ``log sum_j (w_j / N_C) K_H(x - c_j)`` with Gaussian kernels (Eqs. 4 and 5).

    Args:
        x: Pooled features of shape ``(B, D)``.
        centroids: Centroids of shape ``(N_C, D)``.
        weight: Weights ``w_j`` of shape ``(N_C,)``; a weight of 0 switches its kernel off.
        variance: Diagonal of ``H`` of shape ``(D,)``.

    Returns:
        Log densities of shape ``(B,)``.

    Example:
        >>> log_density(torch.zeros(1, 2), torch.zeros(3, 2), torch.ones(3), torch.ones(2))
        tensor([-1.8379])
    """
    num_centroids, dim = centroids.shape
    scale = variance.rsqrt()
    distance = euclidean_distance(x * scale, centroids * scale)
    log_norm = 0.5 * (dim * math.log(2 * math.pi) + variance.log().sum())
    log_weight = weight.log() - (log_norm + math.log(num_centroids))
    return torch.logsumexp(torch.addcmul(log_weight, distance, distance, value=-0.5), dim=1)


def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the nearest centroid of each image (Eq. 7), int64 of shape ``(B,)``."""
    return euclidean_distance(x, centroids).argmin(dim=1)


def assignment_sums(
    x: Tensor, assigned: Tensor, included: Tensor, num_centroids: int
) -> tuple[Tensor, Tensor]:
    """Sum up the images that are assigned to each centroid.

    The two results of several ranks may be added up before :func:`moved_centroids` uses them.

    Args:
        x: Pooled features of shape ``(B, D)``.
        assigned: Index of the centroid of each image, shape ``(B,)``.
        included: Whether an image counts, bool of shape ``(B,)``; the features of the others may be
            anything, NaN included.
        num_centroids: Number of centroids ``N_C``.

    Returns:
        Sums of shape ``(N_C, D)`` and numbers of images, int64 of shape ``(N_C,)``.
    """
    members = assigned[:, None] == torch.arange(num_centroids, device=x.device)
    members = members & included[:, None]
    clean = torch.where(included[:, None], x, 0.0)
    # Not a matrix product: with TF32 it would round the features to ten bits, and not `index_add`,
    # whose order of additions changes from run to run on a GPU.
    sums = (members[:, :, None] * clean[:, None, :]).sum(dim=0)
    return sums, members.sum(dim=0)


def moved_centroids(
    centroids: Tensor, counts: Tensor, sums: Tensor, added: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    r"""Move each centroid towards the mean of the images assigned to it.

    Eq. 8 as printed weighs old and new with factors that do not sum to one, so that a constant
    input pulls every centroid to zero. This is its convex reading::

        c_j <- (1 - eta) c_j + eta * mean(A_j),   eta = (|A_j| + a n_j) / (n_j + |A_j|)

    with the momentum ``a`` and ``n_j`` images assigned before. The rate never falls under ``a``, so
    a centroid keeps following the training; a centroid without images does not move.

    Args:
        centroids: Centroids ``c_j`` of shape ``(N_C, D)``.
        counts: Images assigned so far ``n_j``, int64 of shape ``(N_C,)``.
        sums: Sum of the images assigned now, shape ``(N_C, D)``.
        added: Number of images assigned now ``|A_j|``, int64 of shape ``(N_C,)``.
        momentum: Smallest rate ``a``.

    Returns:
        The new centroids and the new counts.
    """
    total = counts + added
    new = added.to(centroids.dtype)
    rate = (new + momentum * counts.to(centroids.dtype)) / total.clamp(min=1).to(centroids.dtype)
    mean = sums / new.clamp(min=1)[:, None]
    moved = torch.lerp(centroids, mean, rate[:, None])
    return torch.where((added > 0)[:, None], moved, centroids), total


def euclidean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return all pairwise distances, shape ``(B, N)``.

    The expansion ``|x|^2 - 2 x y + |y|^2`` would cancel: pooled ReLU features lie far from the
    origin compared with the distances between them.
    """
    return torch.cdist(x, y, compute_mode='donot_use_mm_for_euclid_dist')
