"""The drawn street scenes as a data set of MMSegmentation."""

from mmpfb.datasets.camvid import CamVidDataset
from mmpfb.datasets.street_scenes.drawn import DrawnOnFirstUse
from mmpfb.registry import DATASETS


@DATASETS.register_module()
class StreetScenesDataset(DrawnOnFirstUse, CamVidDataset):
    """Drawn street scenes with the classes and the layout of CamVid, and a long tail.

    The images are not photographs. They are drawn to ``data_root`` on first use and read from
    there afterwards. About 87 % of them show a clear or an overcast day; the others show dusk,
    night, fog, rain, snow, a crowded crossing or roadworks. ``data_root/conditions.json`` maps
    each file name to its condition.

    Arguments and errors are those of :class:`mmpfb.datasets.street_scenes.drawn.DrawnOnFirstUse`
    and :class:`mmpfb.datasets.camvid.CamVidDataset`.

    Example:
        >>> val = StreetScenesDataset(  # doctest: +SKIP
        ...     data_root='data/street_scenes',
        ...     data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'))
    """
