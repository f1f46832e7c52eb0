"""Registries that make ``type='mmpfb.<Name>'`` resolve in any MMEngine configuration.

They are children of MMEngine's *root* registries: the parent that MMSegmentation and MMPretrain
share, so that one name serves both. A type with the prefix ``mmpfb.`` makes MMEngine import this
module and then the ``locations`` below; a configuration needs no ``custom_imports``.
"""

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT_MODELS, scope='mmpfb', locations=['mmpfb.models'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='mmpfb', locations=['mmpfb.engine'])
DATASETS = Registry('dataset', parent=ROOT_DATASETS, scope='mmpfb', locations=['mmpfb.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=ROOT_DATA_SAMPLERS, scope='mmpfb', locations=['mmpfb.engine']
)
