"""In-batch selectors: which images of a batch are retained. One method, one file."""

from mmpfb.selectors.base import Selector, build_selector, register_selector
from mmpfb.selectors.pfb import PFB
from mmpfb.selectors.uniform import Uniform

__all__ = ['PFB', 'Selector', 'Uniform', 'build_selector', 'register_selector']
