"""In-batch selectors: which images of a batch are retained. One method, one file."""

from mmpfb.selectors.base import Needs, Selector, build_selector, register_selector
from mmpfb.selectors.divbs import DivBS
from mmpfb.selectors.high_loss import HighLoss
from mmpfb.selectors.pfb import PFB
from mmpfb.selectors.uniform import Uniform

__all__ = [
    'DivBS',
    'HighLoss',
    'Needs',
    'PFB',
    'Selector',
    'Uniform',
    'build_selector',
    'register_selector',
]
