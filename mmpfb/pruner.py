"""Runs the method over the iterations of a training: pool, choose, learn, count."""

import enum
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from mmpfb.analysis.timing import Stopwatch
from mmpfb.core.budget import RetainedBudget, exact_ratio
from mmpfb.core.checks import check_positive_int, check_ratio
from mmpfb.core.estimator import usable_rows
from mmpfb.core.host_copy import HostCopy
from mmpfb.core.pooling import pool_features, stage_tensors
from mmpfb.core.randomness import generator_for
from mmpfb.core.ranks import num_ranks, rank
from mmpfb.errors import EstimatorStateError, NoEffectWarning
from mmpfb.selectors import Needs, Selector


class Phase(enum.Enum):
    """What happens to a batch."""

    OBSERVE = 'observe'
    """The selector learns from the whole batch; nothing is pruned."""
    PRUNE = 'prune'
    """Images are pruned as soon as the selector is ready; until then it learns."""
    IDLE = 'idle'
    """The model trains like the stock one; nothing is scored."""


class BatchPruner:
    """Decides for one batch after the other which images are retained, and keeps the books.

    It knows nothing of models: it is given the output of a stage and returns indices. All counts
    that are known on the host are Python numbers, everything else stays on the device until
    somebody asks, so that no iteration waits for a GPU because of it.

    Args:
        selector: What is chosen.
        ratio: Share of the images to prune, in [0, 1).
        min_keep: Fewest images to retain.
        channel_axis: Where a stage output with four axes has its channels, 1 or 3.
        seed: Seed of the random choices.

    Attributes:
        phase: What happens to the next batch. Without a schedule it stays ``Phase.PRUNE``.
        current_ratio: Prune ratio of the next batch, for ramps.
        iteration: Number of batches seen.
        images_seen: Number of images seen in training, by all ranks.
        images_kept: Number of images that passed the cut, on all ranks.
    """

    def __init__(
        self,
        selector: Selector,
        ratio: float,
        min_keep: int,
        channel_axis: int = 1,
        seed: int = 0,
    ) -> None:
        self.selector = selector
        self.ratio = check_ratio('ratio', ratio)
        self.min_keep = check_positive_int('min_keep', min_keep)
        self.channel_axis = channel_axis
        self.seed = seed
        self.phase = Phase.PRUNE
        self.current_ratio = self.ratio
        self.iteration = 0
        self.iterations_pruned = 0
        self.images_seen = 0
        self.images_kept = 0
        self.images_seen_while_pruning = 0
        self.images_kept_while_pruning = 0
        self.scoring_time = Stopwatch()
        self._budget = RetainedBudget()
        self._random_share = Mean()
        self._random_share_of_run = Mean()
        self._non_finite: Tensor | int = 0
        self._effect_checked = False
        self._last_kept: HostCopy | None = None

    @property
    def last_kept(self) -> list[int] | None:
        """Indices retained in the last batch, None if the whole batch was; waits for the device."""
        return None if self._last_kept is None else self._last_kept.tolist()

    def count_unscored(self, batch_size: int) -> None:
        """Count a batch that is trained whole and not looked at."""
        self._count(batch_size, batch_size, pruned=False)
        self._last_kept = None

    @torch.no_grad()
    def choose(self, output: Any, batch_size: int) -> Tensor | None:
        """Return the indices of the images to retain, or None for the whole batch.

        The host does not wait for the choice; see :attr:`last_kept`.

        Args:
            output: What the selector needs: the output of a stage for features, the tensor itself
                for losses and gradients, any tensor on the device for nothing.
            batch_size: Number of images in the batch ``B``.

        Returns:
            Indices in ascending order, int64 of shape ``(k,)``, or None.
        """
        device = stage_tensors(output)[0].device
        with self.scoring_time.measure(device), torch.autocast(device.type, enabled=False):
            keep = self._choose(output, batch_size, device)
        self._last_kept = None if keep is None else HostCopy(keep)
        return keep

    def warn_without_effect(self, batch_size: int) -> str | None:
        """Warn, once, if batches of this size can never be pruned as much as asked for.

        Returns:
            The text of the warning, or None.
        """
        if self._effect_checked:
            return None
        self._effect_checked = True
        problem = self._describe_missing_effect(batch_size)
        if problem is not None:
            warnings.warn(problem, NoEffectWarning, stacklevel=2)
        return problem

    def _describe_missing_effect(self, batch_size: int) -> str | None:
        if self.ratio == 0:
            return 'ratio=0 prunes no image.'
        wanted = (1 - exact_ratio(self.ratio)) * batch_size
        if wanted >= self.min_keep:
            return None
        reason = f'Batches of {batch_size} images (per GPU) with min_keep={self.min_keep} '
        fitting = math.ceil(self.min_keep / (1 - exact_ratio(self.ratio)))
        advice = f'a batch size of {fitting} reaches ratio={self.ratio:g}'
        if self.min_keep >= batch_size:
            reason += 'can never lose an image, so nothing is pruned'
            advice = f'{self.min_keep + 1} is the smallest batch size that prunes, and {advice}'
        else:
            highest = 1 - self.min_keep / batch_size
            reason += f'lose at most {highest:.0%}'
        return f'{reason}: {advice}.'

    def take_interval_metrics(self) -> dict[str, float]:
        """Return what is worth logging since the last call; this waits for the device."""
        metrics = {name: value.item() for name, value in self.selector.metrics().items()}
        random_share = self._random_share.take()
        if random_share is not None:
            metrics['random_share'] = random_share
        seconds = self.scoring_time.take_mean()
        if seconds is not None:
            metrics['scoring_ms'] = 1000 * seconds
        return metrics

    @property
    def random_share(self) -> float | None:
        """Mean random share over all pruned iterations; None if the selector reports none."""
        return self._random_share_of_run.value()

    @property
    def non_finite_images(self) -> int:
        """Number of images of this rank with NaN, infinite or absurdly large features."""
        return int(self._non_finite)

    def state_dict(self) -> dict[str, Any]:
        """Return selector, remainder and counts as tensors and plain values.

        In distributed training the first rank saves for all: what differs between ranks, the random
        share and the number of images that are not finite, is its own.
        """
        return {
            'selector_type': type(self.selector).__name__,
            'selector': self.selector.state_dict(),
            'budget': self._budget.state_dict(),
            'random_share': self._random_share_of_run.state_dict(),
            'non_finite_images': self.non_finite_images,
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """Restore what :meth:`state_dict` returned.

        The state of another selector is left out with a warning; counts and remainder are restored.

        Returns:
            The text of the warning, or None.

        Raises:
            EstimatorStateError: If the state of the selector was saved with other sizes, or the
                state lacks a key.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise EstimatorStateError(
                f'Expected a pruning state with the keys {sorted(self.state_dict())}, '
                f'but {missing} are missing.'
            )
        saved, own = state['selector_type'], type(self.selector).__name__
        problem = None
        if saved == own:
            self.selector.load_state_dict(state['selector'])
            self._random_share_of_run.load_state_dict(state['random_share'])
        else:
            problem = f'The checkpoint holds the state of selector {saved!r}; {own!r} starts anew.'
            warnings.warn(problem, stacklevel=2)
        self._budget.load_state_dict(state['budget'])
        # Saved by the first rank for itself; all ranks are added up in the end.
        self._non_finite = int(state['non_finite_images']) if rank() == 0 else 0
        for name in _COUNTS:
            setattr(self, name, int(state[name]))
        return problem

    def _choose(self, output: Any, batch_size: int, device: torch.device) -> Tensor | None:
        needs = self.selector.needs
        features = torch.empty(batch_size, 0, device=device)
        if needs is Needs.FEATURES:
            features = pool_features(output, self.selector.dim, self.channel_axis)
        elif needs is not Needs.NOTHING:
            features = output
        if needs is not Needs.NOTHING:
            self._non_finite = self._non_finite + (~usable_rows(features)).sum()
        keep = None
        if self.phase is Phase.PRUNE and self.selector.ready:
            self.warn_without_effect(batch_size)
            num_retained = self._budget.take(batch_size, self.current_ratio, self.min_keep)
            if num_retained < batch_size:
                keep = self._select(features, num_retained)
            self._count(batch_size, num_retained, pruned=True)
        else:
            self._count(batch_size, batch_size, pruned=False)
        if needs is Needs.FEATURES:
            self.selector.observe(features if keep is None else features.index_select(0, keep))
        return keep

    def _select(self, features: Tensor, num_retained: int) -> Tensor:
        generator = generator_for(self.seed, rank(), self.iteration)
        selection = self.selector.select(features, num_retained, generator)
        if selection.weight is not None:
            raise NotImplementedError(
                f'{type(self.selector).__name__} returned loss weights, which a model that '
                'computes one loss for the batch cannot apply.'
            )
        if 'random_share' in selection.stats:
            self._random_share.add(selection.stats['random_share'])
            self._random_share_of_run.add(selection.stats['random_share'])
        return selection.keep

    def _count(self, seen: int, kept: int, pruned: bool) -> None:
        self.iteration += 1
        # All ranks are given batches of one size and retain the same number of images.
        seen, kept = seen * num_ranks(), kept * num_ranks()
        self.images_seen += seen
        self.images_kept += kept
        if pruned:
            self.iterations_pruned += 1
            self.images_seen_while_pruning += seen
            self.images_kept_while_pruning += kept


_COUNTS = (
    'seed',
    'iteration',
    'iterations_pruned',
    'images_seen',
    'images_kept',
    'images_seen_while_pruning',
    'images_kept_while_pruning',
)


class Mean:
    """Running mean of scalar tensors that is added up on their device."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, value: Tensor) -> None:
        """Add one value; nothing is copied to the host."""
        if isinstance(self._sum, Tensor):
            self._sum = self._sum.to(value.device)
        self._sum = self._sum + value
        self._count += 1

    def value(self) -> float | None:
        """Return the mean of all values, or None; waits for the device."""
        return float(self._sum) / self._count if self._count else None

    def take(self) -> float | None:
        """Return the mean and start anew."""
        mean = self.value()
        self._sum, self._count = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, float | int]:
        """Return sum and count as plain numbers."""
        return {'sum': float(self._sum), 'count': self._count}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._sum, self._count = float(state['sum']), int(state['count'])
