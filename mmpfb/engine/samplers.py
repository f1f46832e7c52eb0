"""Makes the samplers known as ``sampler=dict(type='mmpfb.<Name>')`` of a data loader."""

from mmpfb.registry import DATA_SAMPLERS
from mmpfb.samplers import UCB, EpsilonGreedy, InfoBatch, StaticRandom, UniformDynamic

for _sampler in (EpsilonGreedy, InfoBatch, StaticRandom, UCB, UniformDynamic):
    DATA_SAMPLERS.register_module(module=_sampler)
