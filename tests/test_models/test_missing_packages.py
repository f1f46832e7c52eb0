"""A package that is not installed disturbs nothing but its own models."""

import subprocess
import sys

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == {package!r}:
            raise ModuleNotFoundError(name)
import importlib.util as util
found = util.find_spec
util.find_spec = lambda name, *a: None if name == {package!r} else found(name, *a)
sys.meta_path.insert(0, Block())
from mmpfb.registry import MODELS
"""


def run_without(package, code):
    return subprocess.run(
        [sys.executable, '-c', BLOCK.format(package=package) + code],
        capture_output=True, text=True, check=False,
    )


def test_segmentors_without_mmsegmentation_name_what_is_missing():
    result = run_without('mmseg', "MODELS.build(dict(type='mmpfb.PFBEncoderDecoder'))")
    assert 'mmpfb.PFBEncoderDecoder needs the package mmsegmentation' in result.stderr
    assert 'MissingExtraError' in result.stderr


def test_segmentors_do_not_need_mmpretrain():
    result = run_without('mmpretrain', "print(MODELS.get('mmpfb.PFBEncoderDecoder').__name__)")
    assert result.stdout.strip().endswith('PFBEncoderDecoder'), result.stderr


def test_classifiers_without_mmpretrain_name_what_is_missing():
    result = run_without('mmpretrain', "MODELS.build(dict(type='mmpfb.PFBImageClassifier'))")
    assert 'mmpfb.PFBImageClassifier needs the package mmpretrain' in result.stderr
    assert 'ModuleNotFoundError: mmpretrain' in result.stderr
    assert "'onedl-mmpretrain' or 'openmmlab-mmpretrain'" in result.stderr


def test_classifiers_do_not_need_mmsegmentation():
    code = (
        "print(MODELS.get('mmpfb.PFBImageClassifier').__name__)\n"
        'from mmpfb.registry import DATASETS, HOOKS\n'
        "assert DATASETS.get('mmpfb.CIFAR10Dataset')\n"
        "assert DATASETS.get('mmpfb.StreetConditionsDataset')\n"
        "assert HOOKS.get('mmpfb.PruningScheduleHook')\n"
    )
    result = run_without('mmseg', code)
    assert result.returncode == 0, result.stderr
    assert 'PFBImageClassifier' in result.stdout.splitlines()


def test_a_broken_mmpretrain_does_not_disturb_segmentors():
    # As an upstream mmpretrain beside another mmcv: found, but its import asserts.
    code = (
        "import types\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mmpretrain.models':\n"
        "            raise AssertionError('MMCV is too old')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "print(MODELS.get('mmpfb.PFBEncoderDecoder').__name__)\n"
        "MODELS.build(dict(type='mmpfb.PFBImageClassifier'))\n"
    )
    result = run_without('nothing', code)
    assert 'PFBEncoderDecoder' in result.stdout
    assert 'whose import fails (AssertionError: MMCV is too old)' in result.stderr
