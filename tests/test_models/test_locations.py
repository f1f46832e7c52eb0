"""Stage names are read off the structure of a backbone."""

import pytest
from torch import nn

from mmpfb.errors import LocationError
from mmpfb.models.locations import early_stage, stage_of_output, stage_paths, third_stage


def module(**children):
    parent = nn.Module()
    for name, child in children.items():
        setattr(parent, name, child)
    return parent


@pytest.mark.parametrize(
    ('backbone', 'expected'),
    [
        (module(layer1=nn.ReLU(), layer2=nn.ReLU()), ['layer1', 'layer2']),
        (module(stem=nn.ReLU(), stage1=nn.ReLU(), transition1=nn.ReLU(), stage2=nn.ReLU()),
         ['stage1', 'stage2']),
        (module(stages=nn.ModuleList([nn.ReLU(), nn.ReLU()])), ['stages.0', 'stages.1']),
        (module(layers=nn.ModuleList([nn.ModuleList([nn.ReLU(), nn.ReLU()])])), ['layers.0.1']),
        (module(layers=['layer0', 'layer1'], layer0=nn.ReLU(), layer1=nn.ReLU()),
         ['layer0', 'layer1']),
        (module(encoder=nn.ReLU()), []),
        (module(blocks1=nn.ModuleList([nn.ReLU(), nn.ReLU()]), norm1=nn.ReLU()), ['blocks1.1']),
        (module(timm_model=module(layer1=nn.ReLU(), layer2=nn.ReLU())),
         ['timm_model.layer1', 'timm_model.layer2']),
        (module(timm_model=module(stages_0=nn.ReLU(), stages_1=nn.ReLU())),
         ['timm_model.stages_0', 'timm_model.stages_1']),
    ],
)
def test_stages(backbone, expected):
    assert stage_paths(backbone) == expected


def test_outputs_are_stages_by_out_indices():
    backbone = module(stages=nn.ModuleList([nn.ReLU() for _ in range(6)]), out_indices=(1, 3, 5))
    assert stage_of_output(backbone, 1) == 'stages.3'
    assert stage_of_output(backbone, -1) == 'stages.5'
    backbone.out_indices = 4
    assert stage_of_output(backbone, 0) == 'stages.4'


def test_an_output_without_a_stage_is_refused():
    with pytest.raises(LocationError, match='no stage for its output 2'):
        stage_of_output(module(layer1=nn.ReLU()), 2)


def test_third_stage_needs_four():
    four = module(**{f'layer{index}': nn.ReLU() for index in range(1, 5)})
    assert third_stage(four) == 'layer3'
    with pytest.raises(LocationError, match='backbone of four stages, but Module has no stages'):
        third_stage(nn.Module())


def stages(count, **children):
    return module(stages=nn.ModuleList([module(**children) for _ in range(count)]))


@pytest.mark.parametrize(
    ('backbone', 'expected'),
    [
        (stages(4, conv=nn.ReLU()), 'stages.0'),
        (stages(4, blocks=module(attn=nn.ReLU())), 'stages.1'),
        (stages(12, attn=nn.ReLU()), 'stages.2'),
        (stages(13, conv=nn.ReLU()), 'stages.3'),
        (stages(3, conv=nn.ReLU()), 'stages.0'),
        (stages(1, conv=nn.ReLU()), 'stages.0'),
    ],
)
def test_early_stage(backbone, expected):
    assert early_stage(backbone) == expected


def test_a_backbone_without_stages_has_no_early_one():
    with pytest.raises(LocationError, match='finds no stages in Module'):
        early_stage(module(encoder=nn.ReLU()))
