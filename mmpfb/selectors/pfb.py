"""Partial Forward Blocking: keep the images with the rarest features.

Paper: Wu et al., Partial Forward Blocking, ICCV 2025, sections 3.3 and 3.4.
Cost: one distance matrix between the batch and the centroids for the density and one for the
update, ``2 B N_C D`` multiply-adds, and ``N_C (D + 1)`` numbers of state.
Read differently from the text: the random coefficient is drawn per image and the centroid update is
its convex reading (see :mod:`mmpfb.core.importance` and :mod:`mmpfb.core.density`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpfb.core.checks import check_non_negative, check_positive_int
from mmpfb.core.estimator import DensityEstimator
from mmpfb.core.importance import (
    add_random_term,
    lowest,
    perturb_tempered,
    random_ranks,
    share_not_in,
)
from mmpfb.core.selection import Selection
from mmpfb.selectors.base import Selector, register_selector


@register_selector
class PFB(Selector):
    """Keeps the images of lowest density in feature space.

    Args:
        num_centroids: Number of kernels ``N_C`` of the density estimate.
        dim: Largest number of dimensions ``D``; a stage with fewer channels uses its own number.
        momentum: Smallest rate at which a centroid moves (beta of Eq. 8).
        bandwidth: ``'silverman'``, ``'scott'`` or ``'identity'`` (Eq. 6, Tab. 6).
        balanced: Whether kernels are weighted by the images assigned to them (Eq. 9).
        random_bound: Upper bound ``b`` of the random term (Eq. 3).
        temperature: None for Eq. 3 as printed. A number replaces the random term by a random choice
            without replacement with log-weights ``-temperature x standardised log density``: 0 is
            the choice of ``Uniform``, and the larger it is, the more the density decides. The hook
            can change it in the course of a run.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        num_centroids: int = 64,
        dim: int = 128,
        momentum: float = 0.01,
        bandwidth: str = 'silverman',
        balanced: bool = True,
        random_bound: float = 0.01,
        temperature: float | None = None,
    ) -> None:
        self.dim = check_positive_int('dim', dim)
        self.num_centroids = num_centroids
        self.momentum = momentum
        self.bandwidth = bandwidth
        self.balanced = balanced
        self.random_bound = check_non_negative('random_bound', random_bound)
        self.temperature = (
            None if temperature is None else check_non_negative('temperature', temperature)
        )
        # Built here as well so that wrong arguments are refused with the configuration, and again
        # in `prepare` once the width of the stage is known.
        self.estimator = self._new_estimator(dim)
        self._prepared = False

    @property
    def ready(self) -> bool:
        """Whether all centroids are set."""
        return self.estimator.ready

    @property
    def num_images_missing(self) -> int:
        """Number of centroids that are not set yet."""
        return self.estimator.num_missing

    def prepare(self, num_channels: int) -> str | None:
        """Size the estimator for a stage with ``num_channels`` channels."""
        assert self.dim is not None
        self.estimator = self._new_estimator(min(num_channels, self.dim))
        self._prepared = True
        if num_channels >= self.dim:
            return None
        return (
            f'The stage has {num_channels} channels, fewer than dim={self.dim}: densities are '
            f'estimated in {num_channels} dimensions.'
        )

    def observe(self, features: Tensor) -> None:
        """Move the centroids towards the images that the model is trained on."""
        if not self._prepared:
            self.prepare(features.shape[1])
        self.estimator.update(features)

    def select(
        self, features: Tensor, num_retained: int, generator: torch.Generator
    ) -> Selection:
        """Choose the images of lowest density plus random term (Eqs. 1 to 3)."""
        log_density = self.estimator.log_density(features)
        if self.temperature == 0:
            # The very choice of `Uniform`, not only one with the same chances.
            ranks = random_ranks(len(features), generator).to(log_density, non_blocking=True)
            key = torch.where(torch.isneginf(log_density), log_density, ranks)
        else:
            # A blocking copy would wait until a GPU has done all work that is queued before it.
            uniform = torch.rand(len(features), generator=generator)
            uniform = uniform.to(log_density, non_blocking=True)
            if self.temperature is None:
                key = add_random_term(log_density, uniform, self.random_bound)
            else:
                key = perturb_tempered(log_density, uniform, self.temperature)
        keep = lowest(key, num_retained)
        random_share = share_not_in(keep, lowest(log_density, num_retained))
        return Selection(keep, score=-key, stats={'random_share': random_share})

    def metrics(self) -> Mapping[str, Tensor]:
        """Return the share of centroids in use, once there are centroids."""
        return {'centroids_in_use': self.estimator.share_in_use} if self.ready else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the estimator."""
        return self.estimator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the estimator.

        Raises:
            EstimatorStateError: If the state was saved with other sizes.
        """
        if not self._prepared and 'dim' in state:
            self.prepare(state['dim'])
        self.estimator.load_state_dict(state)

    def _new_estimator(self, dim: int) -> DensityEstimator:
        return DensityEstimator(
            self.num_centroids, dim, self.momentum, self.bandwidth, self.balanced
        )
