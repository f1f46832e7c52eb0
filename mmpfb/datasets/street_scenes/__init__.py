"""A long-tailed set of drawn street scenes that needs no download.

``python -m mmpfb.datasets.street_scenes FOLDER`` draws it by hand.
"""

from mmpfb.datasets.street_scenes.dataset import StreetScenesDataset
from mmpfb.datasets.street_scenes.drawing import CONDITION_SHARES, draw_scene
from mmpfb.datasets.street_scenes.files import (
    StreetScenesParameters,
    draw_indexed_scene,
    prepare_street_scenes,
)

__all__ = [
    'CONDITION_SHARES',
    'StreetScenesDataset',
    'StreetScenesParameters',
    'draw_indexed_scene',
    'draw_scene',
    'prepare_street_scenes',
]
