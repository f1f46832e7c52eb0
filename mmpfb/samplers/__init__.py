"""Epoch-level samplers: which images are loaded in a pass at all. One method, one file."""

from mmpfb.samplers.base import EpochSampler, Plan
from mmpfb.samplers.epsilon_greedy import EpsilonGreedy
from mmpfb.samplers.infobatch import InfoBatch
from mmpfb.samplers.moving_average import MovingAverageSampler
from mmpfb.samplers.static_random import StaticRandom
from mmpfb.samplers.ucb import UCB
from mmpfb.samplers.uniform_dynamic import UniformDynamic

__all__ = [
    'EpochSampler',
    'EpsilonGreedy',
    'InfoBatch',
    'MovingAverageSampler',
    'Plan',
    'StaticRandom',
    'UCB',
    'UniformDynamic',
]
