"""What the processes of one training, its ranks, tell each other about the images they saw."""

from typing import Any

import torch
from torch import Tensor, distributed


def rank() -> int:
    """Return the number of this process, 0 without distributed training."""
    return int(distributed.get_rank()) if _is_distributed() else 0


def num_ranks() -> int:
    """Return the number of processes, 1 without distributed training."""
    return int(distributed.get_world_size()) if _is_distributed() else 1


class SumOverRanks:
    """Sum of a tensor over all ranks, on its way while the device does other work.

    Every rank has to build one, in the same order among its other collective operations; only
    :meth:`wait` may be left to some of them. All ranks get the same bits: a reduction is computed
    once for each element, and its result sent to all.

    Args:
        tensor: The share of this rank, of the same shape on all. It becomes the sum.

    Example:
        >>> SumOverRanks(torch.tensor([3.0])).wait()
        tensor([3.])
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._work = distributed.all_reduce(tensor, async_op=True) if num_ranks() > 1 else None

    def wait(self) -> Tensor:
        """Return the sum. With NCCL the device waits for the other ranks, the host does not."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._tensor

    def __getstate__(self) -> dict[str, Any]:
        # What is under way cannot be copied, and a model may be copied at any time.
        self.wait()
        return self.__dict__


def gather_rows(rows: Tensor, capacity: int) -> list[Tensor]:
    """Return the rows of every rank, in the order of the ranks; the host waits for them.

    Args:
        rows: Rows of this rank, shape ``(n, D)``. Their number may differ between ranks.
        capacity: Largest number of rows of a rank, the same on all.

    Returns:
        A tensor of shape ``(n_r, D)`` for each rank.

    Raises:
        ValueError: If there are more rows than that.
    """
    if len(rows) > capacity:
        raise ValueError(
            f'Expected argument `rows` to hold at most {capacity} rows, but got {len(rows)}.'
        )
    if num_ranks() == 1:
        return [rows]
    # Ranks can only exchange tensors of one shape; the last column says which rows are filled.
    filled = rows.new_zeros(capacity, rows.shape[1] + 1)
    filled[: len(rows), :-1] = rows
    filled[: len(rows), -1] = 1
    gathered = [torch.empty_like(filled) for _ in range(num_ranks())]
    distributed.all_gather(gathered, filled)
    return [one[one[:, -1] == 1, :-1] for one in gathered]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
