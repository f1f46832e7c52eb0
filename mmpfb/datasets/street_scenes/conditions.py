"""The drawn street scenes as a data set of MMPretrain: which condition does an image show?"""

import json
from pathlib import Path

from mmpretrain.datasets import BaseDataset

from mmpfb.core.checks import check_choice
from mmpfb.datasets.street_scenes.drawing import CONDITION_SHARES
from mmpfb.datasets.street_scenes.drawn import DrawnOnFirstUse
from mmpfb.datasets.street_scenes.files import CONDITIONS_FILE
from mmpfb.registry import DATASETS


class ConditionFiles(BaseDataset):
    """Images of ``data_root/images/<split>`` with the classes of ``conditions.json``.

    Args:
        split: ``'train'`` or ``'val'``.
        **kwargs: Passed to ``BaseDataset`` of MMPretrain: ``data_root``, ``pipeline``, ...

    Raises:
        ValueError: If the split is unknown.
    """

    METAINFO = dict(classes=tuple(CONDITION_SHARES))

    def __init__(self, split: str = 'train', **kwargs) -> None:
        self._split = check_choice('split', split, ('train', 'val'))
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict per image with ``img_path`` and ``gt_label``, sorted by path."""
        root = Path(self.data_root)
        conditions = json.loads((root / CONDITIONS_FILE).read_text(encoding='utf-8'))
        return [
            {
                'img_path': str(path),
                'gt_label': self.CLASSES.index(conditions[path.name]),
            }
            for path in sorted((root / 'images' / self._split).glob('*.jpg'))
        ]


@DATASETS.register_module()
class StreetConditionsDataset(DrawnOnFirstUse, ConditionFiles):
    """Nine conditions, from a clear day (70 % of the images) to roadworks (1 %).

    The same images as :class:`mmpfb.datasets.street_scenes.dataset.StreetScenesDataset`, drawn to
    ``data_root`` on first use. Arguments and errors are those of
    :class:`mmpfb.datasets.street_scenes.drawn.DrawnOnFirstUse` and :class:`ConditionFiles`.
    """
