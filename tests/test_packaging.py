"""Wheel, source distribution and editable install carry configs and tools in `mmpfb/.mim`."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from mmpfb import __version__

FOLDERS = ('configs', 'tools')
LEFT_OUT = shutil.ignore_patterns(
    '.git', '.venv', 'data', 'work_dirs', 'docs', 'tests', 'build', 'dist', '*.egg-info', '.mim',
    '__pycache__', '.*_cache',
)


@pytest.fixture(scope='module')
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the repository, so that no build touches the real one."""
    target = tmp_path_factory.mktemp('tree') / 'mmpfb'
    shutil.copytree(repository, target, ignore=LEFT_OUT)
    return target


def build(kind: str, tree: Path, target: Path) -> Path:
    """Call the build backend the way pip does, and return the file it made."""
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))'
    done = subprocess.run([sys.executable, '-c', code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # What an earlier build left must not come along.
    stale = tree / 'build' / 'lib' / 'mmpfb' / '.mim' / 'configs' / 'renamed.py'
    stale.parent.mkdir(parents=True)
    stale.write_text('')
    return build('wheel', tree, tmp_path_factory.mktemp('wheel'))


def list_sources(tree: Path, *folders: str) -> set[str]:
    return {
        path.relative_to(tree).as_posix()
        for folder in folders
        for path in (tree / folder).rglob('*')
        if path.is_file()
    }


def test_wheel_holds_package_configs_and_tools(wheel: Path, tree: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if '.dist-info/' not in name]
    expected = list_sources(tree, 'mmpfb')
    expected |= {f'mmpfb/.mim/{name}' for name in list_sources(tree, *FOLDERS)}

    assert 'mmpfb/py.typed' in expected
    assert len(names) == len(set(names))
    assert set(names) == expected
    assert not (tree / 'mmpfb' / '.mim').exists()


def test_wheel_keeps_contents_and_executable_scripts(wheel: Path, tree: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        for name in list_sources(tree, *FOLDERS):
            assert archive.read(f'mmpfb/.mim/{name}') == (tree / name).read_bytes()
        mode = archive.getinfo('mmpfb/.mim/tools/dist_train.sh').external_attr >> 16

    assert mode & 0o111 == 0o111


def test_configs_load_from_the_wheel(wheel: Path, tmp_path: Path):
    from mmengine.config import Config

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    leaves = sorted((tmp_path / 'mmpfb/.mim/configs').glob('[!_]*/*.py'))

    assert leaves
    for leaf in leaves:
        model = Config.fromfile(leaf).model
        assert model.get('decode_head', model.get('head')).type in ('ASPPHead', 'LinearClsHead')


def test_metadata_requires_torch_alone(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements = metadata.get_all('Requires-Dist')

    assert metadata['Version'] == __version__
    assert metadata['Requires-Python'] == '>=3.10'
    assert [line for line in requirements if 'extra' not in line] == ['torch>=2.0']
    assert {'onedl', 'onedl-mmpretrain', 'openmmlab', 'openmmlab-mmpretrain', 'dev'} == set(
        metadata.get_all('Provides-Extra')
    )


def test_source_distribution_makes_the_same_wheel(wheel: Path, tree: Path, tmp_path: Path):
    source = build('sdist', tree, tmp_path)
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter='data')
    again = build('wheel', tmp_path / f'mmpfb-{__version__}', tmp_path)

    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert set(first.namelist()) == set(second.namelist())


@pytest.mark.skipif(os.name == 'nt', reason='links need a privilege there')
def test_editable_install_links_configs_and_tools(tree: Path, tmp_path: Path):
    clone = tmp_path / 'clone'
    shutil.copytree(tree, clone, ignore=LEFT_OUT)
    # An installation that was copied once, and then one that was linked, are both renewed.
    (clone / 'mmpfb/.mim/tools').mkdir(parents=True)
    for _ in range(2):
        build('editable', clone, tmp_path)

    for folder in FOLDERS:
        link = clone / 'mmpfb' / '.mim' / folder
        assert link.is_symlink()
        assert link.resolve() == clone / folder
    # A wheel from a tree that is installed this way holds the files once.
    with zipfile.ZipFile(build('wheel', clone, tmp_path)) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))


def test_version_is_the_same_everywhere(repository: Path):
    assert f'version: {__version__}' in (repository / 'CITATION.cff').read_text().splitlines()
