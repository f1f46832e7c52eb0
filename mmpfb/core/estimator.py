"""The adaptive distribution estimation of the paper (section 3.4) as an object with state."""

from typing import Any

import torch
from torch import Tensor

from mmpfb.core.checks import check_bool, check_choice, check_non_negative, check_positive_int
from mmpfb.core.density import (
    BANDWIDTH_RULES,
    assignment_sums,
    bandwidth_variance,
    log_density,
    moved_centroids,
    nearest_centroid,
)
from mmpfb.core.ranks import SumOverRanks, gather_rows, rank
from mmpfb.errors import EstimatorStateError


class DensityEstimator:
    """Estimates the density of pooled features with a fixed number of weighted Gaussian kernels.

    The first ``num_centroids`` images that :meth:`update` sees become the centroids, each with a
    count of one; from then on it is :attr:`ready` and every update moves the centroids. Images with
    NaN, infinite or absurdly large features never enter the state (see :func:`usable_rows`).

    In distributed training all ranks share one estimate: the state follows the images of all of
    them, as if one process had seen them in the order of the ranks, and holds the same bits on
    every rank. So every rank has to call :meth:`update` equally often.

    The state is a plain attribute, not a module buffer: the checkpoint of a model that owns an
    estimator has the keys of the stock model.

    Args:
        num_centroids: Number of kernels ``N_C``.
        dim: Number of feature dimensions ``D``.
        momentum: Smallest rate at which a centroid moves (beta of Eq. 8).
        bandwidth: ``'silverman'``, ``'scott'`` or ``'identity'`` (Eq. 6, Tab. 6).
        balanced: Whether kernels are weighted by the share of images assigned to them (Eq. 9); if
            not, all weights are 1 (Tab. 5, "w/o weight").

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> estimator = DensityEstimator(num_centroids=8, dim=2)
        >>> estimator.update(torch.randn(8, 2, generator=generator))
        >>> estimator.ready
        True
        >>> common, rare = estimator.log_density(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> bool(common > rare)
        True

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
    ) -> None:
        self.num_centroids = check_positive_int('num_centroids', num_centroids, minimum=2)
        self.dim = check_positive_int('dim', dim)
        self.momentum = check_non_negative('momentum', momentum, upper=1)
        self.bandwidth = check_choice('bandwidth', bandwidth, BANDWIDTH_RULES)
        self.balanced = check_bool('balanced', balanced)
        self._centroids: Tensor | None = None
        self._counts: Tensor | None = None
        self._num_collected = 0
        self._moving: SumOverRanks | None = None

    @property
    def ready(self) -> bool:
        """Whether all centroids are set, so that densities can be estimated."""
        return self._num_collected == self.num_centroids

    @property
    def num_missing(self) -> int:
        """Number of images still to be seen before all centroids are set."""
        return self.num_centroids - self._num_collected

    @property
    def centroids(self) -> Tensor:
        """Centroids of shape ``(N_C, D)``.

        Raises:
            RuntimeError: If the estimator is not ready.
        """
        self._require_ready()
        self._settle()
        assert self._centroids is not None
        return self._centroids

    @property
    def counts(self) -> Tensor:
        """Images assigned to each centroid so far, int64 of shape ``(N_C,)``.

        Raises:
            RuntimeError: If the estimator is not ready.
        """
        self._require_ready()
        self._settle()
        assert self._counts is not None
        return self._counts

    @property
    def weight(self) -> Tensor:
        """Kernel weights of shape ``(N_C,)``: the share of each centroid in all counts (Eq. 9)."""
        if not self.balanced:
            return torch.ones_like(self.centroids[:, 0])
        counts = self.counts.to(self.centroids.dtype)
        return counts / counts.sum()

    @property
    def share_in_use(self) -> Tensor:
        """Share of centroids that got an image after the one that set them, scalar tensor."""
        return (self.counts > 1).to(torch.float32).mean()

    @torch.no_grad()
    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density of each image (Eqs. 4 to 6).

        Args:
            x: Pooled features of shape ``(B, D)``.

        Returns:
            Log densities of shape ``(B,)``; minus infinity where features are not usable, because
            nothing like such an image was ever seen.

        Raises:
            RuntimeError: If the estimator is not ready.
            TypeError: If ``x`` is not floating point.
            ValueError: If ``x`` has another shape.
        """
        self._require_ready()
        x = self._accept(x)
        centroids = self.centroids
        variance = bandwidth_variance(centroids, self.bandwidth)
        values = log_density(x, centroids, self.weight, variance)
        return torch.where(usable_rows(x), values, -torch.inf)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Learn from retained images: set the centroids first, then move them (Eqs. 7 and 8).

        Args:
            x: Pooled features of shape ``(k, D)``; ``k`` may be 0 and may differ between ranks.

        Raises:
            TypeError: If ``x`` is not floating point.
            ValueError: If ``x`` has another shape.
        """
        x = self._accept(x)
        if not self.ready:
            x = self._collect(x)
        if not self.ready:
            return
        assigned = nearest_centroid(x, self.centroids)
        sums, added = assignment_sums(x, assigned, usable_rows(x), self.num_centroids)
        # In one tensor, because every collective operation costs a latency. The numbers of images
        # of a batch are small enough to be exact in any floating point type.
        self._moving = SumOverRanks(torch.cat([sums, added[:, None].to(sums.dtype)], dim=1))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, safe for ``weights_only`` loading."""
        self._settle()
        return {
            'num_centroids': self.num_centroids,
            'dim': self.dim,
            'num_collected': self._num_collected,
            'centroids': None if self._centroids is None else self._centroids.cpu().clone(),
            'counts': None if self._counts is None else self._counts.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            EstimatorStateError: If the state was saved with other sizes or lacks a key.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise EstimatorStateError(
                f'Expected an estimator state with the keys {sorted(self.state_dict())}, '
                f'but {missing} are missing.'
            )
        for name in ('num_centroids', 'dim'):
            if state[name] != getattr(self, name):
                raise EstimatorStateError(
                    f'Expected an estimator state with {name}={getattr(self, name)}, but got '
                    f'{name}={state[name]}. Resume with the settings of the saved run, or start '
                    'a new run from its weights with `load_from`.'
                )
        shapes = {'centroids': (self.num_centroids, self.dim), 'counts': (self.num_centroids,)}
        for name, shape in shapes.items():
            tensor = state[name]
            if tensor is not None and tuple(tensor.shape) != shape:
                raise EstimatorStateError(
                    f'Expected {name} of shape {shape} in the estimator state, '
                    f'but got {tuple(tensor.shape)}.'
                )
        if not 0 <= state['num_collected'] <= self.num_centroids:
            raise EstimatorStateError(
                f'Expected num_collected in the estimator state to be in [0, {self.num_centroids}]'
                f', but got {state["num_collected"]}.'
            )
        self._moving = None
        self._num_collected = int(state['num_collected'])
        self._centroids = None if state['centroids'] is None else state['centroids'].clone()
        self._counts = None if state['counts'] is None else state['counts'].clone()

    def _collect(self, x: Tensor) -> Tensor:
        """Turn the first finite rows into centroids and return the rows that are left over."""
        x = x[usable_rows(x)]
        missing = self.num_missing
        of_ranks = gather_rows(x[:missing], missing)
        if self._centroids is None or self._counts is None:
            self._centroids = x.new_zeros(self.num_centroids, self.dim)
            self._counts = torch.zeros(self.num_centroids, dtype=torch.int64, device=x.device)
        begin = self._num_collected
        taken = torch.cat(of_ranks)[:missing]
        self._centroids[begin : begin + len(taken)] = taken
        self._counts[begin : begin + len(taken)] = 1
        self._num_collected += len(taken)
        before = sum(len(rows) for rows in of_ranks[: rank()])
        return x[max(missing - before, 0) :]

    def _settle(self) -> None:
        """Move the centroids by the images of the last update.

        Not in that update: what the other ranks saw is under way until the next score is needed.
        """
        if self._moving is None:
            return
        total = self._moving.wait()
        self._moving = None
        assert self._centroids is not None and self._counts is not None
        sums, added = total[:, :-1], total[:, -1].to(self._counts.dtype)
        self._centroids, self._counts = moved_centroids(
            self._centroids, self._counts, sums, added, self.momentum
        )

    def _accept(self, x: Tensor) -> Tensor:
        """Check the features and bring state and features to one device and precision."""
        if not x.is_floating_point():
            raise TypeError(f'Expected features to be floating point, but got {x.dtype}.')
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f'Expected pooled features of shape (B, {self.dim}), but got {tuple(x.shape)}.'
            )
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        self._settle()
        if self._centroids is not None and self._counts is not None:
            dtype = torch.promote_types(x.dtype, self._centroids.dtype)
            x = x.to(dtype)
            self._centroids = self._centroids.to(device=x.device, dtype=dtype)
            self._counts = self._counts.to(x.device)
        return x

    def _require_ready(self) -> None:
        if not self.ready:
            raise RuntimeError(
                f'The estimator holds {self._num_collected} of {self.num_centroids} centroids: '
                'call `update` with more images first.'
            )


def usable_rows(x: Tensor) -> Tensor:
    """Return whether all features of an image can be reckoned with, bool of shape ``(B,)``.

    NaN and infinity cannot, nor can finite values that overflow when their differences are squared
    and divided by a variance: one such image among the centroids would make every density zero.
    """
    largest = torch.finfo(x.dtype).max ** 0.25
    return (x.abs() <= largest).all(dim=1)
