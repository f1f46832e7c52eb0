"""Measures the memory of a training step: on a GPU what was allocated, elsewhere what is saved."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors occupy together; views of the same memory count once.

    Example:
        >>> whole = torch.zeros(4, 8)
        >>> storage_bytes([whole, whole[:2], torch.zeros(2)])
        136
    """
    return sum({_address(tensor): _size(tensor) for tensor in tensors}.values())


def saved_tensor_bytes(function: Callable[[], object], exclude: Iterable[Tensor] = ()) -> int:
    """Return the most bytes that autograd holds at once for the backward pass of a function.

    That is where the memory of activations goes, on every device. Views of the same memory count
    once, and what autograd has let go counts no more.

    Args:
        function: Runs forward passes, and backward passes as well if it likes.
        exclude: Tensors that exist anyway, such as the parameters and buffers of a model.

    Example:
        >>> weight = torch.ones(8, 8, requires_grad=True)
        >>> inputs = torch.ones(4, 8)
        >>> saved_tensor_bytes(lambda: (inputs @ weight).sum().backward(), exclude=[weight])
        128
    """
    ledger = _Ledger({_address(tensor) for tensor in exclude})
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, _unpack):
        function()
    return ledger.highest


def peak_cuda_bytes(
    function: Callable[[], object], device: torch.device, exclude: Iterable[Tensor] = ()
) -> int:
    """Return the most bytes that are allocated on a CUDA device while a function runs.

    Args:
        function: Function to run.
        device: CUDA device.
        exclude: Tensors on the device that do not belong to what is measured.
    """
    others = storage_bytes(tensor for tensor in exclude if tensor.device.type == device.type)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


class _Ledger:
    """Adds up what autograd holds; a storage that is held several times counts once."""

    def __init__(self, excluded: set[Any]) -> None:
        self._excluded = excluded
        self._holders: dict[Any, int] = {}
        self._current = 0
        self.highest = 0

    def pack(self, tensor: Tensor) -> '_Held':
        return _Held(tensor, self)

    def add(self, tensor: Tensor) -> None:
        address = _address(tensor)
        if address in self._excluded:
            return
        if address not in self._holders:
            self._current += _size(tensor)
            self.highest = max(self.highest, self._current)
        self._holders[address] = self._holders.get(address, 0) + 1

    def remove(self, tensor: Tensor) -> None:
        address = _address(tensor)
        if address in self._excluded:
            return
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address]
            self._current -= _size(tensor)


class _Held:
    """A tensor that autograd saved; gone as soon as autograd lets go of it."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        # A tensor that leads back to the operation by which it is held would never be let go.
        self.tensor = tensor.detach()
        self._ledger = ledger
        ledger.add(self.tensor)

    def __del__(self) -> None:
        self._ledger.remove(self.tensor)


def _unpack(held: _Held) -> Tensor:
    return held.tensor


def _address(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()
