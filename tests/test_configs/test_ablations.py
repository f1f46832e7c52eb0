"""The commands of docs/ablations.md set what they say, and the model they describe can be built."""

import shlex
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / 'docs/ablations.md').read_text().splitlines()
    if line.startswith('python tools/train.py')
]


def read(line: str) -> tuple[Config, dict]:
    words = shlex.split(line)
    config = Config.fromfile(ROOT / words[2])
    options = {}
    for word in words[words.index('--cfg-options') + 1 :]:
        key, value = word.split('=')
        options[key] = DictAction._parse_int_float_bool(value)
    return config, options


def look_up(config: Config, key: str):
    value = config
    for part in key.split('.'):
        value = value[part]
    return value


@pytest.mark.parametrize('line', LINES, ids=lambda line: line.split('--cfg-options ')[1])
def test_ablation_changes_a_setting_and_builds(line: str):
    config, options = read(line)
    selector = config.model.pruning.selector
    for key, value in options.items():
        parent, name = key.rsplit('.', 1)
        # An option that exists, or an argument of PFB that the config leaves at its default.
        assert name in look_up(config, parent) or look_up(config, parent) is selector or (
            key == 'auto_scale_lr.enable'
        )
        assert look_up(config, parent).get(name) != value
    config.merge_from_dict(options)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model)
    for key, value in options.items():
        name = key.rsplit('.', 1)[1]
        if key.startswith('model.pruning.selector.'):
            assert getattr(model.pruner.selector, name) == value
        elif key == 'model.pruning.location':
            assert model.pruning_location == value
        elif key == 'model.pruning.ratio':
            assert model.pruner.ratio == value


def test_table_names_every_setting_that_a_command_varies():
    table = (ROOT / 'docs/ablations.md').read_text().split('\n\n')[2]
    varied = {key for line in LINES for key in read(line)[1]}
    for key in varied - {'auto_scale_lr.enable'}:
        if key.startswith('model.') or key.startswith('train_dataloader'):
            assert f'`{key}`' in table
