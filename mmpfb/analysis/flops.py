"""Counts the floating point operations of training steps; on meta tensors this takes no data.

Matrix products, convolutions and attention are counted, by ``torch.utils.flop_counter``; a
multiplication with its addition counts as two operations. Loss functions, optimisers and
everything that works element by element are free.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmpfb.core.budget import exact_ratio
from mmpfb.core.checks import check_positive_int, check_ratio
from mmpfb.core.gate import check_one_row_per_image, tensors_of
from mmpfb.core.pooling import pool_features
from mmpfb.errors import LocationError

LARGEST_DENOMINATOR = 1000


@dataclass(frozen=True)
class StepFlops:
    """Floating point operations of a training step.

    Attributes:
        scoring: Those of a pass that does nothing but score images.
        forward: Those of the forward pass that is trained with.
        backward: Those of the backward pass.
    """

    scoring: float
    forward: float
    backward: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.scoring + self.forward + self.backward

    def per_image(self, batch_size: int) -> 'StepFlops':
        """Return those of one image of a batch, pruned images included."""
        parts = (self.scoring, self.forward, self.backward)
        return StepFlops(*(part / batch_size for part in parts))


class WholeBatch(NamedTuple):
    """A batch of which a ratio prunes a whole number of images.

    Attributes:
        size: Number of images.
        num_retained: Number of images that are retained.
    """

    size: int
    num_retained: int

    @property
    def ratio(self) -> float:
        """Share of the images that are pruned."""
        return (self.size - self.num_retained) / self.size


def whole_batch(ratio: float, min_keep: int = 1) -> WholeBatch:
    """Return the smallest batch of which a ratio prunes a whole number of images.

    A ratio that no fraction with a denominator up to 1000 stands for is rounded to the next one
    below 1; :attr:`WholeBatch.ratio` tells.

    Args:
        ratio: Share of the images that are pruned, in [0, 1).
        min_keep: Fewest images to retain.

    Example:
        >>> whole_batch(0.3)
        WholeBatch(size=10, num_retained=7)

    Raises:
        ValueError: If an argument is out of range.
    """
    check_positive_int('min_keep', min_keep)
    exact = exact_ratio(check_ratio('ratio', ratio))
    if exact.denominator > LARGEST_DENOMINATOR:
        highest = Fraction(LARGEST_DENOMINATOR - 1, LARGEST_DENOMINATOR)
        exact = min(exact.limit_denominator(LARGEST_DENOMINATOR), highest)
    retained = exact.denominator - exact.numerator
    times = math.ceil(min_keep / retained)
    return WholeBatch(times * exact.denominator, times * retained)


class FlopCounter:
    """Counts what runs in its ``with`` block.

    Example:
        >>> with FlopCounter() as counter:
        ...     product = torch.ones(2, 3) @ torch.ones(3, 5)
        >>> counter.total
        60
    """

    def __init__(self) -> None:
        # PyTorch counts the weight gradient of a convolution with groups once for every group.
        backward = {torch.ops.aten.convolution_backward: _convolution_backward}
        self._mode = FlopCounterMode(display=False, custom_mapping=backward)

    def __enter__(self) -> 'FlopCounter':
        self._mode.__enter__()
        # Newer versions track modules by global hooks. They are of use for a table of modules only,
        # and a pass that ends inside of a module would have to leave them out.
        tracker = getattr(self._mode, 'mod_tracker', None)
        if tracker is not None:
            tracker.__exit__(None, None, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mode.__exit__(kind, error, traceback)

    @property
    def total(self) -> int:
        """Floating point operations so far."""
        return int(self._mode.get_total_flops())


def count_step(forward: Callable[[], Any]) -> StepFlops:
    """Return the operations of a forward pass and of the backward pass from all of its outputs.

    Args:
        forward: Runs the pass and returns tensors, nested in tuples, lists and dicts.

    Raises:
        ValueError: If no output requires a gradient.
    """
    with FlopCounter() as counter:
        outputs = forward()
        seen = counter.total
        _backpropagate(outputs)
        return StepFlops(0, seen, counter.total - seen)


def count_pruned_step(
    step: Callable[[Callable[[Any], Tensor | None]], Any], batch: WholeBatch, scores_apart: bool
) -> StepFlops:
    """Return the operations of a training step that prunes its batch.

    Args:
        step: Runs the forward pass and returns its outputs. It is given the function that returns
            the indices to retain, or None for all, as :class:`mmpfb.core.gate.BatchGate` asks it.
        batch: Numbers of images.
        scores_apart: Whether a pass of its own scores the images, before the choice.

    Raises:
        ValueError: If no output requires a gradient.
    """
    scoring = 0
    with FlopCounter() as counter:

        def decide(output: Any) -> Tensor | None:
            nonlocal scoring
            scoring = counter.total if scores_apart else 0
            if batch.num_retained == batch.size:
                return None
            return torch.arange(batch.num_retained, device=next(tensors_of(output)).device)

        outputs = step(decide)
        seen = counter.total
        _backpropagate(outputs)
        return StepFlops(scoring, seen - scoring, counter.total - seen)


def count_up_to(
    forward: Callable[[], Any], places: Mapping[str, nn.Module], batch_size: int
) -> dict[str, StepFlops]:
    """Return the operations of forward and backward passes that end at the outputs of modules.

    Args:
        forward: Runs a pass in which the modules run.
        places: The modules, by any name.
        batch_size: Number of images in the pass.

    Returns:
        The operations for each module that ran and whose output can be scored: features with a row
        per image. A part without trained weights has no backward pass.
    """
    ends: dict[str, tuple[int, Any]] = {}
    with FlopCounter() as counter:

        def remember(name: str, output: Any) -> None:
            if name not in ends and _can_be_scored(output, batch_size):
                ends[name] = counter.total, output

        handles = [
            module.register_forward_hook(lambda _, __, output, name=name: remember(name, output))
            for name, module in places.items()
        ]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        flops = {}
        for name, (seen, output) in ends.items():
            before = counter.total
            if any(tensor.requires_grad for tensor in tensors_of(output)):
                _backpropagate(output, retain_graph=True)
            flops[name] = StepFlops(0, seen, counter.total - before)
    return flops


def _can_be_scored(output: Any, batch_size: int) -> bool:
    try:
        check_one_row_per_image(output, batch_size)
        with torch.no_grad():
            pool_features(output, dim=None)
    except (LocationError, TypeError, ValueError):
        return False
    return True


def _backpropagate(outputs: Any, retain_graph: bool = False) -> None:
    trained = [tensor.sum() for tensor in tensors_of(outputs) if tensor.requires_grad]
    if not trained:
        raise ValueError('Expected outputs that require gradients, but got none that does.')
    torch.autograd.backward(trained, retain_graph=retain_graph)


def _convolution_backward(
    grad_out: Any,
    images: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Any,
    **kwargs: Any,
) -> int:
    """Count from shapes: the gradients of images and of weights cost a forward pass each."""
    positions = (images if transposed else grad_out)[2:]
    forward = 2 * grad_out[0] * math.prod(positions) * math.prod(weight)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))
