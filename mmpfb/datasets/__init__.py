"""Data sets for the example configurations; imported when a configuration names one."""

from mmpfb.optional import import_optional
from mmpfb.registry import DATASETS

_found = {
    **import_optional(
        DATASETS, 'mmpfb.datasets.camvid', ('CamVidDataset',), package='mmsegmentation'
    ),
    **import_optional(
        DATASETS,
        'mmpfb.datasets.street_scenes.dataset',
        ('StreetScenesDataset',),
        package='mmsegmentation',
    ),
    **import_optional(
        DATASETS,
        'mmpfb.datasets.cifar',
        ('CIFAR10Dataset', 'CIFAR100Dataset'),
        package='mmpretrain',
    ),
    **import_optional(
        DATASETS,
        'mmpfb.datasets.street_scenes.conditions',
        ('StreetConditionsDataset',),
        package='mmpretrain',
    ),
}
globals().update(_found)
__all__ = list(_found)
