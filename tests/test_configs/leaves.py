"""The shipped configurations, sorted into segmentation and classification, pruned and not."""

import re
from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
LEAVES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')
PRUNING = re.compile(
    r'-(?P<selector>pfb|uniform)(?P<ratio>0\.\d+)(?:-rescore(?P<scale>[01]\.\d+))?'
)
PRUNED = [path for path in LEAVES if PRUNING.search(path.stem)]
CLASSIFIERS = [
    path for path in LEAVES if Config.fromfile(path).default_scope == 'mmpretrain'
]
SEGMENTORS = [path for path in LEAVES if path not in CLASSIFIERS]
SELECTORS = {'pfb': 'PFB', 'uniform': 'Uniform'}


def identify(path: Path) -> str:
    return path.stem


def twin_of(path: Path) -> Path:
    return path.with_name(PRUNING.sub('', path.name))
