"""What every epoch-level sampler shares: passes, their order, weights, losses, resuming.

A *pass* is one walk over the chosen images. Everything is a function of the seed, the number of the
pass and the losses that were observed before the pass was planned, so every rank plans the same and
a resumed run goes on as if it had never been interrupted.
"""

import math
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import Sampler

from mmpfb.core.budget import exact_ratio
from mmpfb.core.checks import check_bool, check_choice, check_positive_int, check_ratio
from mmpfb.core.randomness import generator_for
from mmpfb.core.ranks import num_ranks, rank
from mmpfb.errors import EstimatorStateError

HOOK_LINE = "default_hooks = dict(image_losses=dict(type='mmpfb.ImageLossesHook'))"
# Kept apart, so that no method draws the numbers that shuffle its pass.
ORDER, CHOICE = 0, 1
NUMBERS_AT_ONCE = 1 << 16
# A CUDA tensor takes 512 bytes however small it is.
PENDING_PIECES = 1024


@dataclass(frozen=True)
class Plan:
    """The images of one pass.

    Attributes:
        images: Chosen images, ascending, int64 of shape ``(k,)``.
        weights: Weight of every image of the data set in this pass, float32 of shape
            ``(num_images,)``; None if all are one.
    """

    images: Tensor
    weights: Tensor | None = None


class EpochSampler(Sampler[int], ABC):
    """Chooses, pass by pass, the images that are loaded and trained on at all.

    With ``infinite=False`` one walk is the pass that ``set_epoch`` names, so an epoch gets shorter:
    ``len()`` changes from epoch to epoch. ``EpochBasedTrainLoop`` takes ``max_iters`` from the
    first one, which is an upper bound then; let learning rates follow epochs (``by_epoch=True``
    without ``convert_to_iter_based``).

    With ``infinite=True`` the passes follow each other without end, for ``IterBasedTrainLoop``:
    batches are always whole and workers never restart. The number of iterations stays what the
    configuration says, and each epoch-level method only saves what ``max_iters`` is lowered by. The
    next pass is planned when its first index is drawn. Workers draw ahead: the losses of up to
    ``num_workers * prefetch_factor`` batches of the pass before are missing then, and their images
    keep the score they had.

    Images without a score (none seen yet, or their loss was not finite) are always kept: of the two
    mistakes, that one does not last.

    Args:
        dataset: Data set; only its length is used.
        ratio: Share of the images to prune, in [0, 1).
        infinite: Whether passes follow each other without end.
        seed: Seed of all random choices, the same on all ranks; None draws one.
        shuffle: Stock samplers take it, so a configuration that changes only their type may hold
            it. True is the only value: passes are always shuffled.

    Raises:
        ValueError: If an argument is out of range or the data set is empty.

    Attributes:
        needs_losses: Whether the method chooses by losses.
        score_names: Names of the float32 values that it keeps for every image; NaN is none yet.
        batch_size: Number of indices in a batch, if known; only a finite sampler whose passes do
            not end with a whole batch needs it, to resume in an iteration-based loop.
        drop_last: Whether the last batch of a pass is left out if it is not whole.
        losses_follow: Set by whoever promises to hand over losses: a pass that must be planned
            before the first of them arrives is full then, instead of an error.
    """

    needs_losses: ClassVar[bool] = True
    score_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        dataset: Sized,
        ratio: float,
        infinite: bool = False,
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        self.num_indices = len(dataset)
        if not self.num_indices:
            raise ValueError('Expected argument `dataset` to hold images, but it is empty.')
        if not check_bool('shuffle', shuffle):
            raise ValueError(
                'Expected argument `shuffle` to be True, as passes are always shuffled, but got '
                'False.'
            )
        self.ratio = check_ratio('ratio', ratio)
        self.infinite = check_bool('infinite', infinite)
        self.rank, self.world_size = rank(), num_ranks()
        self.seed = _shared_seed() if seed is None else int(seed)
        self.batch_size: int | None = None
        self.drop_last = False
        self.losses_follow = False
        self.run_length: int | None = None
        self.run_unit = 'pass'
        self._image_of_index: Tensor | None = None
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._observed = False
        self._lengths: list[int] = []
        self._plans: dict[int, Plan] = {}
        self._first_walked: int | None = None
        # Finite: the pass to walk, where in it, and the pass that `set_epoch(0)` means.
        self._pass, self._offset, self._base = 0, 0, 0
        # Infinite: where the stream begins, and how far the training has come.
        self._start, self._consumed = 0, 0
        self._reset_scores(self.num_indices)

    # What a method is

    @abstractmethod
    def plan(self, pass_index: int) -> Plan:
        """Choose the images of a pass from the scores.

        Only called with ``ratio > 0`` and, if the method needs losses, after the first of them: the
        passes before are full. Random draws come from :meth:`generator`.
        """

    def update(self, images: Tensor, losses: Tensor) -> None:
        """Take losses into the scores.

        Args:
            images: Different images, int64 of shape ``(n,)``.
            losses: Their losses, float32 of shape ``(n,)``; NaN if not finite.
        """

    # For methods

    @property
    def num_images(self) -> int:
        """Number of different images."""
        return self._num_images

    @property
    def num_retained(self) -> int:
        """Number of images that the ratio leaves, at least one: ``N - floor(ratio * N)``."""
        return self.num_images - math.floor(exact_ratio(self.ratio) * self.num_images)

    def generator(self, *coordinates: int) -> torch.Generator:
        """Return the generator of the method's own draws, for a pass or the like."""
        return generator_for(self.seed, CHOICE, *coordinates)

    def full_plan(self) -> Plan:
        """Return the plan of a pass over all images."""
        return Plan(torch.arange(self.num_images))

    def start_of(self, pass_index: int) -> int:
        """Return the number of this rank's indices before a pass."""
        return sum(self._span(length) for length in self._lengths[:pass_index])

    def span_of(self, plan: Plan) -> int:
        """Return the number of this rank's indices that a pass takes."""
        return self._span(self._num_planned(plan))

    # What the training loop uses

    @property
    def wants_losses(self) -> bool:
        """Whether losses have to be handed over with these settings."""
        return self.needs_losses and self.ratio > 0

    def __iter__(self) -> Iterator[int]:
        """Return a new iterator over this rank's indices; never advances anything."""
        if self.infinite:
            return self._stream()
        self._begin(self._pass)
        return _numbers(self._order(self._pass)[self._offset :])

    def __len__(self) -> int:
        """Return this rank's number of indices in the current pass; infinite: in a full one."""
        if self.infinite:
            return math.ceil(self.num_indices / self.world_size)
        self._plan_of(self._pass)
        return math.ceil(self._lengths[self._pass] / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Make pass ``epoch`` the current one; does nothing to an infinite sampler.

        After :meth:`skip` epochs count from the pass in which it ended: loops that call it begin to
        count anew.
        """
        check_positive_int('epoch', epoch, minimum=0)
        if not self.infinite and self._base + epoch != self._pass:
            self._pass, self._offset = self._base + epoch, 0

    def skip(self, num_samples: int) -> None:
        """Go to an absolute position: the number of this rank's indices in earlier batches.

        Past passes have their recorded lengths. A finite sampler goes on in the right pass; if it
        knows the ``batch_size``, ``num_samples`` counts every batch as a whole one, as loops do.

        Raises:
            ValueError: If the number is negative.
        """
        check_positive_int('num_samples', num_samples, minimum=0)
        if self.infinite:
            self._start = self._consumed = num_samples
        else:
            self._pass, self._offset = self._locate(num_samples)
            self._base = self._pass

    def weights_at(self, position: int, images: Tensor) -> Tensor | None:
        """Return the weights of the images of a batch in the pass that drew them.

        An infinite sampler takes from it how far the training has come, and forgets passes before.

        Args:
            position: Number of this rank's indices before the batch, since the start of the run; a
                finite sampler does not look at it.
            images: Images of the batch in their order, int64 of shape ``(B,)``.

        Returns:
            float32 of shape ``(B,)`` on the host, or None if all are one.

        Raises:
            ValueError: If no pass that is still known drew indices there.
        """
        if not self.infinite:
            plan = self._plan_of(self._pass)
            return None if plan is None or plan.weights is None else plan.weights[images]
        pieces, any_weighted, done = [], False, 0
        starts = list(accumulate(map(self._span, self._lengths), initial=0))
        pass_index = bisect_right(starts, position) - 1
        while done < len(images):
            plan = self._plan_of(pass_index) if 0 <= pass_index < len(self._lengths) else None
            if plan is None:
                raise ValueError(
                    'Expected argument `position` to be where a known pass drew its indices, from '
                    f'{starts[min(self._plans, default=0)]} to {starts[-1] - len(images)}, but got '
                    f'{position}.'
                )
            end = min(len(images), starts[pass_index + 1] - position)
            some = images[done:end]
            any_weighted |= plan.weights is not None
            pieces.append(torch.ones(len(some)) if plan.weights is None else plan.weights[some])
            done, pass_index = end, pass_index + 1
        self._consumed = position
        return torch.cat(pieces) if any_weighted else None

    def observe(self, images: Tensor, losses: Tensor) -> None:
        """Take the losses of images of one step; the host does not wait for a device.

        All ranks have to be given the same, in the same order.

        Args:
            images: Images (indices of the data set unless grouped), int64 of shape ``(n,)``.
            losses: Their losses of shape ``(n,)``. One that is not finite counts as none: its image
                is kept until a finite one arrives.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if images.ndim != 1 or images.shape != losses.shape or images.is_floating_point():
            raise ValueError(
                'Expected arguments `images` and `losses` to be integers and numbers of the same '
                f'shape (n,), but got {images.dtype} of shape {tuple(images.shape)} and '
                f'{losses.dtype} of shape {tuple(losses.shape)}.'
            )
        self._recent.append((images, losses.detach().float()))
        self._observed = True
        if len(self._recent) == PENDING_PIECES:
            self._pending.append(_joined(self._recent))
            self._recent = []

    def scores(self) -> dict[str, Tensor]:
        """Return copies of the scores of all images by name; NaN where there is none."""
        self._flush()
        return {name: score.clone() for name, score in self._scores.items()}

    def group_images(self, image_of_index: Tensor) -> None:
        """Tell which indices of the data set are the same image, as in a repeated data set.

        Scores belong to images then, and a chosen image is drawn with all its indices. Methods that
        need no losses choose among indices in any case, as they work without anyone to tell them.

        Args:
            image_of_index: Image of every index, numbered from 0 without gaps, of shape ``(N,)``.

        Raises:
            ValueError: If the numbers do not fit the data set.
            RuntimeError: If the method needs no losses, or losses were observed already.
        """
        if not self.needs_losses or self._observed:
            raise RuntimeError(
                f'Expected images to be grouped for a method that needs losses and before the '
                f'first of them, but {type(self).__name__} '
                f'{"has got some" if self.needs_losses else "needs none"}.'
            )
        found = image_of_index.unique()
        if len(image_of_index) != self.num_indices or not torch.equal(
            found, torch.arange(len(found))
        ):
            raise ValueError(
                'Expected argument `image_of_index` to number the images of '
                f'{self.num_indices} indices from 0 without gaps, but got {len(image_of_index)} '
                f'indices of images {found[:1].tolist()} to {found[-1:].tolist()}.'
            )
        self._image_of_index = image_of_index.clone()
        self._reset_scores(len(found))
        # Without a loss every pass is full, whatever the images are.
        self._plans = {pass_index: self.full_plan() for pass_index in self._plans}

    def set_run_length(self, length: int, by: str = 'pass') -> None:
        """Tell how long the run will be, for methods that end with full passes.

        Args:
            length: Number of passes, or of indices that this rank will draw.
            by: ``'pass'`` or ``'index'``.

        Raises:
            ValueError: If an argument is out of range.
        """
        self.run_length = check_positive_int('length', length)
        self.run_unit = check_choice('by', by, ('pass', 'index'))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of indices, over all ranks, in every pass that has been planned."""
        return tuple(self._lengths)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the same on all ranks, as tensors and plain values."""
        plans = {}
        if self.needs_losses:
            self._forget_past()
            plans = {
                pass_index: {'images': plan.images.clone(), 'weights': plan.weights}
                for pass_index, plan in self._plans.items()
            }
        return {
            'method': type(self).__name__,
            'seed': self.seed,
            'num_indices': self.num_indices,
            'scores': self.scores(),
            'observed': self._observed,
            'lengths': list(self._lengths),
            'plans': plans,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            EstimatorStateError: If it is that of another method or data set.
        """
        sizes = {name: len(score) for name, score in self._scores.items()}
        saved_sizes = {name: len(score) for name, score in state['scores'].items()}
        expected = (type(self).__name__, self.num_indices, sizes)
        saved = (state['method'], state['num_indices'], saved_sizes)
        if saved != expected:
            raise EstimatorStateError(
                'Expected the state of a sampler of the same method, number of indices and scores '
                f'per image {expected}, but got {saved}.'
            )
        self.seed = int(state['seed'])
        self._scores = {name: score.cpu().clone() for name, score in state['scores'].items()}
        self._pending, self._recent = [], []
        self._observed = bool(state['observed'])
        self._lengths = [int(length) for length in state['lengths']]
        self._plans = {
            int(pass_index): Plan(
                plan['images'].cpu(), None if plan['weights'] is None else plan['weights'].cpu()
            )
            for pass_index, plan in state['plans'].items()
        }

    # Passes

    def _stream(self) -> Iterator[int]:
        pass_index, offset = self._locate(self._start)
        while True:
            self._begin(pass_index)
            yield from _numbers(self._order(pass_index)[offset:])
            pass_index, offset = pass_index + 1, 0

    def _begin(self, pass_index: int) -> None:
        if self._first_walked is None:
            self._first_walked = pass_index
        waiting = self.wants_losses and not self._observed and not self.losses_follow
        if waiting and pass_index > self._first_walked:
            raise RuntimeError(
                f'Expected {type(self).__name__} to have losses of images before its second pass, '
                f'but it got none. Add the hook that hands them over: {HOOK_LINE}. If it is there, '
                'the workers of the data loader draw more than a whole pass ahead of it: lower '
                '`num_workers` or `prefetch_factor`.'
            )

    def _order(self, pass_index: int) -> Tensor:
        """Return this rank's indices of a pass in their order, int64."""
        plan = self._plan_of(pass_index)
        # Of all indices and then without those that are pruned: methods differ in what they leave
        # out of a pass, and not in the order of the rest.
        generator = generator_for(self.seed, ORDER, pass_index)
        order = torch.randperm(self.num_indices, generator=generator)
        if plan is None:
            # Only somebody who replays a run to get where it ended draws from a pass that is over.
            order = order[: self._lengths[pass_index]]
        else:
            order = order[self._is_planned(plan)[order]]
        total = math.ceil(len(order) / self.world_size) * self.world_size
        return order[torch.arange(self.rank, total, self.world_size) % len(order)]

    def _plan_of(self, pass_index: int) -> Plan | None:
        """Return the plan of a pass, made now if it is new; None if it has been forgotten."""
        while len(self._lengths) < pass_index and not self.infinite:
            # Nobody walked these: a run that began without this sampler, or epochs left out.
            self._lengths.append(self.num_indices)
        while len(self._lengths) <= pass_index:
            self._plan_next()
        if pass_index not in self._plans and not self.wants_losses:
            return self._make_plan(pass_index)
        return self._plans.get(pass_index)

    def _plan_next(self) -> None:
        pass_index = len(self._lengths)
        self._flush()
        plan = self._make_plan(pass_index)
        self._lengths.append(self._num_planned(plan))
        self._plans[pass_index] = plan
        self._forget_past()

    def _make_plan(self, pass_index: int) -> Plan:
        if self.ratio == 0 or (self.needs_losses and not self._observed):
            return self.full_plan()
        return self.plan(pass_index)

    def _forget_past(self) -> None:
        """Drop the plans of passes that are over, but never the last one."""
        current = self._pass
        if self.infinite:
            current = len(self._lengths) - 1
            if self.wants_losses:
                starts = list(accumulate(map(self._span, self._lengths), initial=0))
                current = min(current, bisect_right(starts, self._consumed) - 1)
        oldest = min(current, max(self._plans, default=0))
        self._plans = {index: plan for index, plan in self._plans.items() if index >= oldest}

    def _locate(self, position: int) -> tuple[int, int]:
        """Return the pass and the place in it of a number of indices since the start of the run."""
        start, pass_index = 0, 0
        while True:
            if pass_index == len(self._lengths):
                self._plan_next()
            span = self._span(self._lengths[pass_index])
            if not span:
                raise ValueError(
                    f'Expected a pass to hold a whole batch of {self.batch_size}, as `drop_last` '
                    f'is set, but pass {pass_index} has {self._lengths[pass_index]} indices.'
                )
            if position < start + span:
                return pass_index, position - start
            start, pass_index = start + span, pass_index + 1

    def _span(self, length: int) -> int:
        """Return the number of this rank's indices that a loop counts for a pass."""
        own = math.ceil(length / self.world_size)
        if self.infinite or self.batch_size is None:
            return own
        batches = own / self.batch_size
        return self.batch_size * (math.floor(batches) if self.drop_last else math.ceil(batches))

    def _is_planned(self, plan: Plan) -> Tensor:
        """Return for every index whether a plan holds it, bool of shape ``(N,)``."""
        is_chosen = torch.zeros(self.num_images, dtype=torch.bool)
        is_chosen[plan.images] = True
        return is_chosen if self._image_of_index is None else is_chosen[self._image_of_index]

    def _num_planned(self, plan: Plan) -> int:
        return int(self._is_planned(plan).sum())

    # Scores

    def _reset_scores(self, num_images: int) -> None:
        self._num_images = num_images
        self._scores = {name: torch.full((num_images,), torch.nan) for name in self.score_names}

    def _flush(self) -> None:
        """Take everything that was observed into the scores."""
        if not self._pending and not self._recent:
            return
        images, losses = (values.cpu() for values in _joined(self._pending + self._recent))
        self._pending, self._recent = [], []
        if len(images) and not 0 <= int(images.min()) <= int(images.max()) < self.num_images:
            raise ValueError(
                f'Expected observed images to be in [0, {self.num_images}), but got some from '
                f'{int(images.min())} to {int(images.max())}.'
            )
        losses = losses.where(losses.isfinite(), torch.nan)
        repetition = _repetition(images)
        # An image that was observed twice takes its losses one after the other.
        for turn in range(int(repetition.max()) + 1 if len(images) else 0):
            now = repetition == turn
            self.update(images[now], losses[now])


def _numbers(indices: Tensor) -> Iterator[int]:
    # As Python numbers all indices of a pass would take five times the memory.
    for some in indices.split(NUMBERS_AT_ONCE):
        yield from some.tolist()


def _joined(pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, losses = zip(*pieces, strict=True)
    return torch.cat(images), torch.cat(losses)


def _repetition(images: Tensor) -> Tensor:
    """Return how often each entry occurred before, int64 of the same shape.

    Example:
        >>> _repetition(torch.tensor([5, 3, 5, 5, 3]))
        tensor([0, 0, 1, 2, 1])
    """
    ordered, order = images.sort(stable=True)
    _, counts = ordered.unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    repetition = torch.empty_like(images)
    repetition[order] = torch.arange(len(images)) - first
    return repetition


def _shared_seed() -> int:
    # From the system: a global generator would give other draws to everything that comes after.
    seeds = [int.from_bytes(os.urandom(4), 'little')]
    if num_ranks() > 1:
        dist.broadcast_object_list(seeds)
    return seeds[0]
