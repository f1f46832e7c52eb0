"""How many images a model needs to train its batch normalisation."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpfb.core.ranks import num_ranks


def smallest_trainable_batch(model: nn.Module) -> int:
    """Return 2 if a batch normalisation sees one value per image and channel, else 1.

    The image pooling of ASPP and the first scale of PSP pool an image to one pixel; with one image
    the batch normalisation behind it has a single value per channel, and PyTorch refuses to train.
    Heads and necks of classifiers see one vector per image, with the same effect.
    Statistics that are shared by several ranks have enough values with one image per rank.
    """
    for name in ('neck', 'head'):
        vectors = getattr(model, name, None) or nn.Identity()
        if any(isinstance(module, nn.BatchNorm1d) for module in vectors.modules()):
            return 2
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        pooled = False
        for part in sequence:
            if pooled and any(_needs_two(module) for module in part.modules()):
                return 2
            pooled = pooled or _pools_to_one_pixel(part)
    return 1


def _pools_to_one_pixel(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _needs_two(module: nn.Module) -> bool:
    shared = isinstance(module, nn.SyncBatchNorm) and num_ranks() > 1
    return isinstance(module, _BatchNorm) and not shared
