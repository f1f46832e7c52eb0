"""Finds the loss functions of a host's model."""

from torch import nn

from mmpfb.errors import ImageLossError


def loss_modules(model: nn.Module) -> list[nn.Module]:
    """Return the loss modules of a segmentor or classifier, those of all its heads.

    Heads of MMSegmentation hold them as ``loss_decode`` and the like, those of MMPretrain as
    ``loss_module``; what a loss module is made of is not listed.

    Raises:
        ImageLossError: If there is none.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        parts = path.split('.')
        if any('.'.join(parts[:end]) in found for end in range(1, len(parts))):
            continue
        names = [part for part in parts if not part.isdigit()]
        is_loss = bool(names) and names[-1].startswith('loss')
        if is_loss and not isinstance(module, nn.ModuleList):
            found[path] = module
    if not found:
        raise ImageLossError(
            f'Expected {type(model).__name__} to hold its loss functions as modules whose names '
            "begin with 'loss', but it has none; losses of single images cannot be read off it."
        )
    return list(found.values())
