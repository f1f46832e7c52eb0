"""The method in pure PyTorch: no module below imports anything of the OpenMMLab stack.

Functions first, small stateful objects over them:

* :mod:`~mmpfb.core.pooling`: stage output to one vector per image
* :mod:`~mmpfb.core.density`, :mod:`~mmpfb.core.estimator`: how common such an image is
* :mod:`~mmpfb.core.importance`: which images stay
* :mod:`~mmpfb.core.budget`: how many of them
* :mod:`~mmpfb.core.schedule`: in which iterations
* :mod:`~mmpfb.core.gate`: how the batch is cut
"""

from mmpfb.core.budget import RetainedBudget, retained_count
from mmpfb.core.estimator import DensityEstimator
from mmpfb.core.gate import BatchGate, take_rows
from mmpfb.core.pooling import pool_features
from mmpfb.core.randomness import generator_for
from mmpfb.core.schedule import PruningWindow, resolve_window, scheduled_ratio
from mmpfb.core.selection import Selection

__all__ = [
    'BatchGate',
    'DensityEstimator',
    'PruningWindow',
    'RetainedBudget',
    'Selection',
    'generator_for',
    'pool_features',
    'resolve_window',
    'retained_count',
    'scheduled_ratio',
    'take_rows',
]
