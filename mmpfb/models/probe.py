"""Finds out, when a model is built, whether its batch can be cut at a place.

Some backbones remember the batch size in Python or join branches that left before the cut. They
raise an error or, worse, return maps of a wrong shape. So the features of a small random batch are
computed twice, whole and cut, and compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpfb.core.gate import BatchGate
from mmpfb.core.pooling import pool_features, stage_tensors
from mmpfb.core.randomness import generator_for
from mmpfb.errors import LocationError
from mmpfb.models.locations import candidate_paths

Extract = Callable[[Tensor], Any]

BATCH_SIZE = 4
RETAINED = (0, 2, 3)
# Sides of the square probe images: the first is fast, larger ones are for backbones with a large
# stride, and the others for those that take one size alone.
IMAGE_SIZES = (64, 128, 224, 256, 384, 512, 32, 96, 192, 240, 288, 320, 336, 448)
LARGEST_RELATIVE_ERROR = 1e-4


class StageChannels(NamedTuple):
    """How many channels a stage output has, and on which axis a map with four axes has them."""

    number: int
    axis: int


def channels_at(model: nn.Module, extract: Extract, location: str) -> StageChannels:
    """Return the channels at a location where the batch can be cut.

    The model is run in evaluation mode; its training flags, buffers and the random number
    generators are left as they were.

    Args:
        model: Model with a ``backbone``.
        extract: Maps images to features, through ``location`` and the backbone.
        location: Module path in ``model``.

    Raises:
        LocationError: If there is no such module or the batch cannot be cut there. The message
            lists where it can.
    """
    with _evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        images, whole = _run_whole(model, extract)
        submodule = _submodule(model, location)
        reason, output = _try_cut(model, extract, submodule, images, whole)
        if reason is None:
            axis = _channel_axis(output)
            return StageChannels(pool_features(output, None, axis).shape[1], axis)
        where = _where(model, extract, images, whole)
    raise LocationError(
        f'{type(model.get_submodule("backbone")).__name__} cannot be cut at {location!r}: '
        f'{reason}; {where}.'
    )


def describe_cuttable(model: nn.Module, extract: Extract) -> str:
    """Return a clause that tells where the batch of a model can be cut, for error messages."""
    with _evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        images, whole = _run_whole(model, extract)
        return _where(model, extract, images, whole)


def _where(model: nn.Module, extract: Extract, images: Tensor, whole: Any) -> str:
    cuttable = [
        path
        for path in candidate_paths(model)
        if _try_cut(model, extract, model.get_submodule(path), images, whole)[0] is None
    ]
    if cuttable:
        return f'it can be cut at: {", ".join(cuttable)}'
    return "none of its stages allows it, so this backbone cannot be pruned"


def _submodule(model: nn.Module, location: str) -> nn.Module:
    try:
        if location:
            return model.get_submodule(location)
    except AttributeError:
        pass
    raise LocationError(
        f"Expected argument `location` to be 'auto' or a module path such as "
        f'{", ".join(candidate_paths(model))}, but got {location!r}.'
    )


def _run_whole(model: nn.Module, extract: Extract) -> tuple[Tensor, Any]:
    in_channels = _num_image_channels(model.get_submodule('backbone'))
    parameter = next(model.parameters())
    generator = generator_for(BATCH_SIZE)
    errors: dict[str, Exception] = {}
    for size in IMAGE_SIZES:
        images = torch.rand(BATCH_SIZE, in_channels, size, size, generator=generator)
        # Images that differ strongly: features of the wrong image must not pass as rounding.
        images = images * torch.arange(1, BATCH_SIZE + 1).view(-1, 1, 1, 1)
        images = images.to(parameter)
        try:
            return images, extract(images)
        except Exception as caught:  # noqa: BLE001 - which error tells a wrong size is unknowable
            errors.setdefault(str(caught).partition('\n')[0], caught)
    raise LocationError(
        f'The features of {type(model.get_submodule("backbone")).__name__} could not be computed '
        f'for square images of {IMAGE_SIZES} pixels, so no cut could be tested: {"; ".join(errors)}'
    ) from list(errors.values())[-1]


def _num_image_channels(backbone: nn.Module) -> int:
    # The attribute `in_channels` of some backbones is a counter that ends at their last layer.
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _try_cut(
    model: nn.Module, extract: Extract, submodule: nn.Module, images: Tensor, whole: Any
) -> tuple[str | None, Any]:
    """Return why the batch cannot be cut (None if it can) and the whole output at the cut."""
    keep = torch.tensor(RETAINED, device=images.device)
    stage_output = None

    def decide(output: Any) -> Tensor:
        nonlocal stage_output
        pool_features(output, dim=None)
        stage_output = output
        return keep

    gate = BatchGate(submodule, model.get_submodule('backbone'))
    try:
        with gate.open(len(images), decide):
            cut = extract(images)
    except LocationError as error:
        return str(error).partition(';')[0], None
    except Exception as error:  # noqa: BLE001 - any failure of the cut model is the answer
        return f'the forward pass fails ({str(error).splitlines()[0]})', None
    finally:
        gate.remove()
    if not _equal_rows(cut, whole, keep):
        return 'the features of the retained images come out wrong', None
    return None, stage_output


def _channel_axis(output: Any) -> int:
    # The probe images are square, so the two axes of equal length are those of space. Backbones of
    # timm put the channels last; with three equal lengths the usual order is taken.
    shape = stage_tensors(output)[0].shape
    return 3 if len(shape) == 4 and shape[1] == shape[2] != shape[3] else 1


def _equal_rows(cut: Any, whole: Any, keep: Tensor) -> bool:
    got, expected = list(_tensors(cut)), list(_tensors(whole))
    if len(got) != len(expected):
        return False
    for left, right in zip(got, expected, strict=True):
        right = right.index_select(0, keep) if right.shape[0] == BATCH_SIZE else right
        if left.shape != right.shape:
            return False
        if left.is_meta:
            continue
        tolerance = LARGEST_RELATIVE_ERROR * float(right.abs().nan_to_num().max())
        if not torch.allclose(left, right, rtol=0, atol=tolerance + 1e-12, equal_nan=True):
            return False
    return True


def _tensors(structure: Any) -> Iterator[Tensor]:
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, dict):
        structure = tuple(structure.values())
    if isinstance(structure, (tuple, list)):
        for item in structure:
            yield from _tensors(item)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # Not `model.train()`: that would wake modules that were frozen one by one.
        for module, training in flags.items():
            module.training = training
