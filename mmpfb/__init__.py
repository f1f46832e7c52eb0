"""Partial Forward Blocking for MMSegmentation and MMPretrain.

Importing this package imports nothing of the OpenMMLab stack. The adapters live in
:mod:`mmpfb.models`, :mod:`mmpfb.engine` and :mod:`mmpfb.datasets`; MMEngine imports them when a
configuration names ``mmpfb.<Name>``.
"""

from mmpfb.version import __version__

__all__ = ['__version__']
