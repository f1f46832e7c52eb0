"""Where a model may be cut: names of encoder stages, read off the structure of a backbone.

Backbones of the OpenMMLab stack name their stages in a handful of ways. Reading the structure and
not the class makes subclasses and backbones of other packages work as well; whether a cut at such a
place is *correct* is decided by :mod:`mmpfb.models.probe`, never by a name.
"""

import math
import re

from torch import nn

from mmpfb.errors import LocationError

STAGE_LISTS = ('stages', 'layers', 'blocks', 'network')
NUMBERED_STAGE = re.compile(r'(layer|stage|block)s?_?\d+')


def stage_paths(backbone: nn.Module) -> list[str]:
    """Return the paths of the stages of a backbone, in order, relative to the backbone.

    If it has none of its own, they are those of the part that holds most of its parameters, as in a
    wrapper around the network of another package.

    Example:
        >>> backbone = nn.Module()
        >>> backbone.layer1, backbone.layer2 = nn.ReLU(), nn.ReLU()
        >>> stage_paths(backbone)
        ['layer1', 'layer2']
    """
    stages = _own_stage_paths(backbone)
    part = None if stages else _main_part(backbone)
    if part is None:
        return stages
    return [f'{part}.{path}' for path in stage_paths(backbone.get_submodule(part))]


def _main_part(module: nn.Module) -> str | None:
    """Return the child that holds more than half of the parameters, or the only one."""
    sizes = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in module.named_children()
    }
    name = max(sizes, key=lambda key: sizes[key], default=None)
    if name is None or (len(sizes) > 1 and 2 * sizes[name] <= sum(sizes.values())):
        return None
    return name


def _own_stage_paths(module: nn.Module) -> list[str]:
    for attribute in ('res_layers', *STAGE_LISTS):
        stages = getattr(module, attribute, None)
        # ResNet and MobileNet hold the names of their stages in a list of strings.
        if isinstance(stages, (list, tuple)) and all(isinstance(item, str) for item in stages):
            return list(stages)
        if isinstance(stages, (nn.ModuleList, nn.Sequential)):
            return [
                f'{attribute}.{index}{_running_part(stage)}' for index, stage in enumerate(stages)
            ]
    return [
        f'{name}{_running_part(child)}'
        for name, child in module.named_children()
        if NUMBERED_STAGE.fullmatch(name)
    ]


def stage_of_output(backbone: nn.Module, output_index: int) -> str:
    """Return the path of the stage that gives one output of a backbone.

    Args:
        backbone: Backbone with the stages that :func:`stage_paths` finds.
        output_index: Position in the tuple that the backbone returns; negative from the end.

    Raises:
        LocationError: If the backbone has no stage that gives this output.
    """
    stages = stage_paths(backbone)
    outputs = getattr(backbone, 'out_indices', None)
    outputs = range(len(stages)) if outputs is None else outputs
    outputs = [outputs] if isinstance(outputs, int) else list(outputs)
    try:
        return stages[outputs[output_index]]
    except IndexError:
        raise LocationError(
            f'{type(backbone).__name__} has no stage for its output {output_index} '
            f'(stages {stages}, outputs {outputs}); give the `location` as a module path.'
        ) from None


def third_stage(backbone: nn.Module) -> str:
    """Return the path of the third of four stages, where auxiliary heads usually attach.

    Raises:
        LocationError: If the backbone does not have four stages.
    """
    stages = stage_paths(backbone)
    if len(stages) != 4:
        found = f'stages {stages}' if stages else 'no stages'
        raise LocationError(
            "location='auto' needs an auxiliary head or a backbone of four stages, but "
            f'{type(backbone).__name__} has {found}; give the `location` as a module path.'
        )
    return stages[2]


def early_stage(backbone: nn.Module) -> str:
    """Return the path of the stage at which the paper cuts a classifier of this kind (Table 9).

    Stage 1 of four for convolutional networks (ResNet), stage 2 of four for transformers (Swin);
    where a backbone lists single blocks (ViT, MobileNet, EfficientNet), the end of the first
    quarter.

    Example:
        >>> backbone = nn.Module()
        >>> backbone.blocks = nn.Sequential(*[nn.Identity() for _ in range(12)])
        >>> early_stage(backbone)
        'blocks.2'

    Raises:
        LocationError: If no stages are found.
    """
    stages = stage_paths(backbone)
    if not stages:
        raise LocationError(
            f"location='auto' finds no stages in {type(backbone).__name__}; give the `location` as "
            'a module path.'
        )
    if len(stages) == 4 and _attends(backbone):
        return stages[1]
    return stages[math.ceil(len(stages) / 4) - 1]


def candidate_paths(model: nn.Module, encoder: str) -> list[str]:
    """Return the module paths of a model that a user most likely means by a location."""
    backbone = model.get_submodule(encoder)
    paths = stage_paths(backbone)
    if not paths:
        for name, child in backbone.named_children():
            # A ModuleList has no forward, and the parts of a Sequential may be called one by one.
            lists = (nn.ModuleList, nn.Sequential)
            members = range(len(child)) if isinstance(child, lists) else []
            paths += [f'{name}.{index}' for index in members] or [name]
    return [f'{encoder}.{path}' for path in paths]


def _attends(backbone: nn.Module) -> bool:
    return any(path.rpartition('.')[2] == 'attn' for path, _ in backbone.named_modules())


def _running_part(stage: nn.Module) -> str:
    # A ModuleList has no forward: what runs last in it (the norm of a MiT stage) ends the stage.
    if isinstance(stage, nn.ModuleList) and len(stage) > 0:
        return f'.{len(stage) - 1}{_running_part(stage[-1])}'
    return ''
