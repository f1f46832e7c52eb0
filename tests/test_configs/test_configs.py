"""A pruned config differs from its twin in pruning alone, and README names them all."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from .leaves import (
    CLASSIFIERS,
    CONFIGS,
    LEAVES,
    PRUNED,
    PRUNING,
    SEGMENTORS,
    SELECTORS,
    identify,
    twin_of,
)

MODELS = {
    'EncoderDecoder': 'mmpfb.PFBEncoderDecoder',
    'ImageClassifier': 'mmpfb.PFBImageClassifier',
}


def test_there_are_pruned_and_unpruned_configs_of_both_tasks():
    assert len([path for path in PRUNED if path in SEGMENTORS]) >= 8
    assert len([path for path in PRUNED if path in CLASSIFIERS]) >= 19
    assert {twin_of(path) for path in PRUNED} == set(LEAVES) - set(PRUNED)


@pytest.mark.parametrize('path', PRUNED, ids=identify)
def test_pruned_config_differs_from_its_twin_in_the_pruning_alone(path: Path):
    pruned = Config.fromfile(path).to_dict()
    twin = Config.fromfile(twin_of(path)).to_dict()
    assert pruned['model'].pop('type') == MODELS[twin['model'].pop('type')]
    pruning = pruned['model'].pop('pruning')
    name = PRUNING.search(path.stem)
    assert pruning['ratio'] == float(name['ratio'])
    assert pruning['selector']['type'] == SELECTORS[name['selector']]
    scale = name['scale'] and float(name['scale'])
    assert pruning['mode'] == ('reuse' if scale is None else 'rescore')
    assert pruning.get('score_scale') == scale
    assert pruned['default_hooks'].pop('pruning')['type'] == 'mmpfb.PruningScheduleHook'
    pruned['default_hooks'].pop('retention', None)

    assert pruned == twin
    assert 'pruning' not in twin['model']
    assert 'pruning' not in twin['default_hooks']


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*.py')), ids=identify)
def test_config_imports_nothing_and_starts_with_its_base(path: Path):
    lines = [line for line in path.read_text().splitlines() if line and line[0] != '#']

    assert not any(re.match(r'(import|from) ', line) for line in lines)
    assert lines[0].startswith('_base_ =') or '_base_' not in path.read_text()


def test_readme_names_every_config_and_no_other():
    text = (CONFIGS / 'README.md').read_text()
    linked = {CONFIGS / link for link in re.findall(r'\(([^()\s]+\.py)\)', text)}

    assert linked == set(LEAVES)
