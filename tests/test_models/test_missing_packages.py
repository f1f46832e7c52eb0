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
