"""Cuts a batch in the middle of a forward pass, at the output of one submodule."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmpfb.core.pooling import stage_tensors
from mmpfb.errors import LocationError

Decide = Callable[[Any], Tensor | None]


class BatchGate:
    """Lets only the retained images of a batch pass a submodule, while it is open.

    A forward hook on the submodule asks a callback which rows stay and returns only those. The
    outputs of *earlier* stages still hold the whole batch; a second hook, on the module that
    collects the outputs of all stages, brings them to the same rows. A closed gate changes nothing.

    The hooks are bound methods of an object that refers to no module, so a model that owns a gate
    can be copied and pickled.

    The submodule must not run again in the backward pass, as it does inside of a checkpointed part
    of the network: nothing tells to which cut that run belongs. It is refused then; checkpointing
    parts before or behind the cut, or the submodule itself, is fine.

    Args:
        cut: Submodule at whose output the batch is cut.
        collector: Module that contains ``cut`` and returns the outputs of several stages.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> gate = BatchGate(cut=net[0], collector=net)
        >>> with gate.open(batch_size=4, decide=lambda output: torch.tensor([0, 2])):
        ...     net(torch.ones(4, 3)).shape
        torch.Size([2, 2])
        >>> net(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(self, cut: nn.Module, collector: nn.Module) -> None:
        self._decide: Decide | None = None
        self._batch_size = 0
        self._keep: Tensor | None = None
        self._fired = False
        self._handles = [
            cut.register_forward_hook(self._cut),
            collector.register_forward_hook(self._align),
        ]

    @contextmanager
    def open(self, batch_size: int, decide: Decide) -> Iterator[None]:
        """Cut the forward passes inside of the ``with`` block.

        Args:
            batch_size: Number of images that enter the model.
            decide: Gets the output of the submodule and returns the indices to retain, or None to
                retain all. It is asked once per opening.

        Raises:
            LocationError: If the block ends without the submodule having run.
            RuntimeError: If the gate is open already.
        """
        if self._decide is not None:
            raise RuntimeError('The gate is open already; it cuts one forward pass at a time.')
        self._decide, self._batch_size, self._keep, self._fired = decide, batch_size, None, False
        try:
            yield
            if not self._fired:
                raise LocationError(
                    'The submodule at which the batch is cut did not run in this forward pass; '
                    'choose another `location`.'
                )
        finally:
            self._decide, self._keep = None, None

    def remove(self) -> None:
        """Take the hooks away; the gate cannot be used again."""
        for handle in self._handles:
            handle.remove()

    def _cut(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._decide is None:
            _refuse_recomputation()
            return None
        if not self._fired:
            self._fired = True
            check_one_row_per_image(output, self._batch_size)
            self._keep = self._decide(output)
        return self._align(module, args, output)

    def _align(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._keep is None:
            return None
        return take_rows(output, self._keep, self._batch_size)


def check_one_row_per_image(output: Any, batch_size: int) -> None:
    """Raise a ``LocationError`` if a stage output has not one row for each image of a batch."""
    # Rows of anything else (windows, tokens first) would pass uncut, beside a shortened list of
    # labels, and some losses would broadcast one against the other.
    shape = tuple(stage_tensors(output)[0].shape)
    if shape[:1] != (batch_size,):
        raise LocationError(
            f'Expected the output at which the batch is cut to have a row for each of {batch_size} '
            f'images, but got a tensor of shape {shape}; choose another `location`.'
        )


def take_rows(structure: Any, keep: Tensor, batch_size: int) -> Any:
    """Return a nested structure with only the retained rows of every tensor of a whole batch.

    Args:
        structure: Tensor, or tuples, lists and dicts of them; anything else is passed through.
        keep: Indices of the retained images, shape ``(k,)``.
        batch_size: First axis of the tensors that hold the whole batch. Tensors with another first
            axis were cut before and are passed through.

    Example:
        >>> import torch
        >>> take_rows((torch.arange(3), (8, 8)), torch.tensor([0, 2]), batch_size=3)
        (tensor([0, 2]), (8, 8))
    """
    if isinstance(structure, Tensor):
        whole = structure.dim() > 0 and structure.shape[0] == batch_size
        return _rows(structure, keep.to(structure.device)) if whole else structure
    if isinstance(structure, dict):
        # Copied to keep its type: the outputs of transformers are dictionaries with attributes.
        taken = copy.copy(structure)
        for key, value in structure.items():
            taken[key] = take_rows(value, keep, batch_size)
        return taken
    if isinstance(structure, tuple) and hasattr(structure, '_fields'):
        return type(structure)(*(take_rows(item, keep, batch_size) for item in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(take_rows(item, keep, batch_size) for item in structure)
    return structure


def tensors_of(structure: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, Mapping):
        structure = tuple(structure.values())
    if isinstance(structure, (tuple, list)):
        for item in structure:
            yield from tensors_of(item)


def _refuse_recomputation() -> None:
    # The one sign of a recomputation that both kinds of checkpointing give: a forward pass with
    # gradients that runs inside of a backward pass.
    if torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1:
        raise LocationError(
            'The submodule at which the batch is cut ran again in the backward pass, inside of a '
            'larger part of the network that is checkpointed. Checkpoint its stages one by one '
            "(such as `activation_checkpointing=['backbone.layer1', 'backbone.layer2', ...]` or "
            "`with_cp=True` of the backbone), or use mode='rescore'."
        )


def _rows(tensor: Tensor, keep: Tensor) -> Tensor:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        # `index_select` returns the usual order, and every layer behind would run in that.
        return tensor.permute(0, 2, 3, 1).index_select(0, keep).permute(0, 3, 1, 2)
    return tensor.index_select(0, keep)
