"""A long-tailed set of drawn street scenes that needs no download.

``python -m mmpfb.datasets.street_scenes FOLDER`` draws it by hand. The data sets over it are in
``dataset`` (MMSegmentation) and ``conditions`` (MMPretrain), which need their package.
"""

from mmpfb.datasets.street_scenes.drawing import CONDITION_SHARES, draw_scene
from mmpfb.datasets.street_scenes.files import (
    StreetScenesParameters,
    draw_indexed_scene,
    prepare_street_scenes,
)

__all__ = [
    'CONDITION_SHARES',
    'StreetScenesParameters',
    'draw_indexed_scene',
    'draw_scene',
    'prepare_street_scenes',
]
