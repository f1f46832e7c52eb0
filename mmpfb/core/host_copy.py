"""Brings results of a device to the host without making it wait before it has to."""

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """Values of a tensor on the host; waits for the device only when they are asked for.

    On a CUDA device the copy is queued at once, behind the work that makes the tensor. Whoever asks
    later waits until the device has come *that* far, while work queued in between keeps it busy.

    Args:
        tensor: Tensor to copy.

    Example:
        >>> HostCopy(torch.tensor([3, 1])).tolist()
        [3, 1]
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            # Into pinned memory, which `non_blocking` allocates for copies to the host.
            self._values = tensor.to('cpu', non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()
        else:
            self._values = tensor

    def tolist(self) -> list[Any]:
        """Return the values, after waiting for them."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values.tolist()

    def __getstate__(self) -> dict[str, Any]:
        # Events cannot be copied, and a model may be copied at any time (moving averages).
        self.tolist()
        return self.__dict__
