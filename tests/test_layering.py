"""The law of imports: core, selectors and samplers, analysis, models, engine, comparison."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmpfb'
HOST = ('mmengine', 'mmcv', 'mmseg', 'mmpretrain')
FREE_OF_HOST = ('core', 'selectors', 'samplers', 'analysis', 'pruner', 'errors', 'version')
# A part may import what has a lower rank, and itself.
RANK = {
    'version': 0,
    'errors': 0,
    'optional': 1,
    'core': 1,
    'selectors': 2,
    'samplers': 2,
    'analysis': 3,
    'pruner': 4,
    'registry': 4,
    'models': 5,
    'datasets': 5,
    'engine': 6,
    'comparison': 7,
}


def part_of(path: Path) -> str:
    """The name of a file's part: 'core', 'errors', ..., or 'mmpfb' for the root itself."""
    relative = path.relative_to(PACKAGE)
    name = relative.parts[0] if len(relative.parts) > 1 else relative.stem
    return 'mmpfb' if name == '__init__' else name


def imported_names(source: str, package: str) -> Iterator[str]:
    """All absolute names that a file imports, in functions and by string as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[: len(package.split('.')) - node.level + 1]
            prefix = '.'.join(base) if node.level else ''
            module = '.'.join(part for part in (prefix, node.module) if part)
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, 'attr', getattr(function, 'id', ''))
            first = node.args[0] if node.args else None
            if name in ('import_module', '__import__', 'find_spec') and isinstance(
                first, ast.Constant
            ):
                yield str(first.value)


def imports_of(path: Path) -> set[str]:
    package = '.'.join(path.relative_to(ROOT).parent.parts)
    return set(imported_names(path.read_text(encoding='utf-8'), package))


def parts_in(names: set[str]) -> set[str]:
    """The parts of this package among imported names."""
    return {
        name.split('.')[1]
        for name in names
        if name.startswith('mmpfb.') and name.split('.')[1] in RANK
    }


# An installed package carries configurations and tools in `.mim`.
FILES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_is_left_of_it(path):
    part = part_of(path)
    names = imports_of(path)
    if part == 'mmpfb':
        assert parts_in(names) <= {'version'}
        assert not {name.split('.')[0] for name in names} & set(HOST)
        return
    assert part in RANK, f'{path} belongs to no part of the package; give it a rank'
    not_left = {other for other in parts_in(names) - {part} if RANK[other] >= RANK[part]}
    assert not not_left, f'{path} imports {not_left}'
    if part in FREE_OF_HOST:
        assert not {name.split('.')[0] for name in names} & set(HOST)


def test_the_files_are_found():
    found = {part_of(path) for path in FILES}
    assert {'core', 'selectors', 'analysis', 'models', 'engine', 'errors', 'mmpfb'} <= found


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('import mmcv', 'mmcv'),
        ('import torch, mmseg.models as m', 'mmseg.models'),
        ('from mmengine.hooks import Hook', 'mmengine.hooks'),
        ('def f():\n    from mmpretrain import models', 'mmpretrain'),
        ('try:\n    import mmcv\nexcept ImportError:\n    pass', 'mmcv'),
        ("importlib.import_module('mmseg')", 'mmseg'),
        ("find_spec('mmseg')", 'mmseg'),
        ('from ..models import mixin', 'mmpfb.models'),
        ('from .. import engine', 'mmpfb.engine'),
        ('from . import pooling', 'mmpfb.core.pooling'),
        ('from mmpfb import models', 'mmpfb.models'),
    ],
)
def test_every_way_to_import_is_seen(source, expected):
    assert expected in set(imported_names(source, 'mmpfb.core'))


def test_a_word_is_no_import():
    assert not set(imported_names('"""As mmengine does."""\nx = "mmcv"', 'mmpfb.core'))


# Imports in a fresh interpreter

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError('blocked: ' + name, name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-c', BLOCKER.format(blocked=blocked) + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_blocker_blocks():
    for name in HOST:
        result = run_python(f'import {name}.anything', blocked=HOST)
        assert result.returncode != 0
        assert f'ModuleNotFoundError: blocked: {name}' in result.stderr


def test_the_blocker_would_catch_the_adapters():
    result = run_python('import mmpfb.engine', blocked=HOST)
    assert result.returncode != 0
    assert 'ModuleNotFoundError: blocked: mm' in result.stderr


PURE = """
import pkgutil, importlib
import torch, torch.nn.functional, torch.utils.flop_counter
before = {name.split('.')[0] for name in sys.modules}

import mmpfb
count = 0
for part in ('mmpfb.core', 'mmpfb.selectors', 'mmpfb.analysis', 'mmpfb.errors'):
    module = importlib.import_module(part)
    count += 1
    for info in pkgutil.walk_packages(getattr(module, '__path__', []), part + '.'):
        importlib.import_module(info.name)
        count += 1
assert count > 15, count

from mmpfb.core import generator_for, pool_features
from mmpfb.selectors import build_selector
selector = build_selector(dict(type='PFB', num_centroids=4, dim=8))
features = pool_features(torch.rand(6, 8, 3, 3))
selector.observe(features)
assert len(selector.select(features, 3, generator_for(0)).keep) == 3

after = {name.split('.')[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
"""


def test_the_method_needs_torch_and_the_standard_library_alone():
    result = run_python(PURE, blocked=HOST)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['mmpfb']"


def test_importing_the_package_does_not_even_import_torch():
    code = "import mmpfb; assert 'torch' not in sys.modules; print(mmpfb.__version__)"
    result = run_python(code, blocked=HOST)
    assert result.returncode == 0, result.stderr
    assert result.stdout[0].isdigit()


@pytest.mark.skipif(find_spec('mmseg') is None, reason='needs MMSegmentation')
def test_segmentation_works_without_mmpretrain():
    code = (
        'import mmpfb.models\n'
        "assert 'mmpretrain' not in sys.modules\n"
        "print(mmpfb.models.PFBEncoderDecoder.__name__, 'mmseg' in sys.modules)\n"
    )
    result = run_python(code, blocked=('mmpretrain',))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ['PFBEncoderDecoder', 'True']
