"""Looks at images without leaving a trace in the model: the pass that ``mode='rescore'`` scores by.

The pass stops at the stage whose output is wanted, so that no deeper layer is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmpfb.errors import LocationError


@contextmanager
def traceless(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the ``with`` block in evaluation mode, without gradients and without side effects.

    Batch normalisation updates no statistics and dropout drops nothing. Training flags, also those
    of modules that were frozen one by one, the random number generators of the host and of
    ``device``, and autocast's cache are afterwards as they were.

    Args:
        module: Module that is run inside.
        device: Device of its inputs.
    """
    awake = [child for child in module.modules() if child.training]
    devices = [device] if device.type == 'cuda' else []
    # Autocast remembers the half-precision copy of a weight until its outermost block ends. In
    # older versions (PyTorch issue 112583) a copy that was made without gradients is used again
    # with them and cuts the weight off from the loss.
    caching = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    for child in awake:
        # Not `eval()`: some modules do more than set the flag when they are switched.
        child.training = False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for child in awake:
            child.training = True
        torch.set_autocast_cache_enabled(caching)


class _CutReached(Exception):
    """Ends a forward pass; an ``Exception`` so that hooks with ``always_call`` are called."""


def output_at(
    cut: nn.Module, forward: Callable[[], Any], enclosing: Iterable[nn.Module] = ()
) -> Any:
    """Run a forward pass up to the output of one submodule and return that output.

    Args:
        cut: Submodule at whose output the pass ends.
        forward: Runs the pass.
        enclosing: Modules that contain ``cut`` and are called in the pass.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        >>> output_at(net[0], lambda: net(torch.ones(4, 3))).shape
        torch.Size([4, 5])

    Raises:
        LocationError: If the submodule did not run, or if one of the enclosing modules has hooks
            that would be left out by ending the pass.
    """
    for module in enclosing:
        _refuse_hooks_left_out(module)
    reached: list[Any] = []

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        reached.append(output)
        raise _CutReached

    # Registered for this pass alone: then it is the last hook of the submodule, and all others have
    # run when the pass ends.
    handle = cut.register_forward_hook(stop)
    try:
        forward()
    except _CutReached:
        pass
    finally:
        handle.remove()
    if not reached:
        raise LocationError(
            'The submodule at which images are scored did not run in this forward pass; choose '
            'another `location`.'
        )
    return reached[0]


def downscale(images: Tensor, scale: float) -> Tensor:
    """Return images of shape ``(B, C, H, W)`` with both sides multiplied by ``scale``, in (0, 1].

    Every pixel is the mean over the area that it covers, so that nothing is aliased.
    """
    if scale == 1:
        return images
    return F.interpolate(images, size=scaled_size(images.shape[-2:], scale), mode='area')


def scaled_size(size: Iterable[int], scale: float) -> tuple[int, ...]:
    """Return height and width of downscaled images.

    Example:
        >>> scaled_size((512, 1025), 0.5)
        (256, 512)
    """
    return tuple(max(1, round(side * scale)) for side in size)


def _refuse_hooks_left_out(module: nn.Module) -> None:
    hooks = {**torch_module._global_forward_hooks, **module._forward_hooks}
    # Absent in torch 2.0, where no hook can ask to be called whatever happens.
    always = {
        **getattr(torch_module, '_global_forward_hooks_always_called', {}),
        **getattr(module, '_forward_hooks_always_called', {}),
    }
    if hooks.keys() - always.keys():
        raise LocationError(
            f'{type(module).__name__} contains the place of the cut and has forward hooks, which '
            'would not be called when images are scored because the pass ends inside of it. '
            "Register them with always_call=True, choose the end of a stage as `location`, or use "
            "mode='reuse'."
        )
