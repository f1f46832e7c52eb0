"""CamVid road scenes in the common grouping of 11 classes."""

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from mmpfb.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid (Brostow et al. 2008, 2009) with 11 classes; 255 marks unlabelled pixels.

    The expected layout, where a split is ``train`` or ``val``::

        data_root/images/<split>/*.jpg
        data_root/annotations/<split>/*.png      values 0 to 10, and 255

    Args:
        img_suffix: Suffix of the images. Defaults to ``'.jpg'``.
        seg_map_suffix: Suffix of the label images. Defaults to ``'.png'``.
        reduce_zero_label: Must stay False, since class 0 is the sky. Defaults to False.
        **kwargs: Passed to ``BaseSegDataset``: ``data_root``, ``data_prefix``, ``pipeline``, ...

    Raises:
        FileNotFoundError: If the image or the annotation folder does not exist, or if there is no
            image in it. With ``lazy_init=True`` this is raised by ``full_init()``.
        ValueError: If ``reduce_zero_label`` is set.

    Example:
        >>> train = CamVidDataset(  # doctest: +SKIP
        ...     data_root='data/camvid',
        ...     data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'))
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign symbol',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        reduce_zero_label: bool = False,
        **kwargs,
    ) -> None:
        if reduce_zero_label:
            raise ValueError(
                'Expected argument `reduce_zero_label` to be False, because label 0 is the class '
                f'"sky", but got {reduce_zero_label}.'
            )
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List image and label paths, after checking that the folders are there.

        Returns:
            One dict per image, sorted by path.

        Raises:
            FileNotFoundError: If a folder does not exist or holds no image.
        """
        for key in ('img_path', 'seg_map_path'):
            folder = self.data_prefix.get(key)
            if folder and not fileio.isdir(folder, backend_args=self.backend_args):
                raise FileNotFoundError(self._missing_data_message(folder, 'does not exist'))
        data_list = super().load_data_list()
        if not data_list:
            folder = self.data_prefix.get('img_path')
            raise FileNotFoundError(
                self._missing_data_message(folder, f'holds no image *{self.img_suffix}')
            )
        return data_list

    def _missing_data_message(self, folder: str, fault: str) -> str:
        return (
            f'The folder {folder!r} {fault}. Expected the layout '
            f'<data_root>/images/{{train,val}}/*{self.img_suffix} and '
            f'<data_root>/annotations/{{train,val}}/*{self.seg_map_suffix} '
            f'with data_root={self.data_root!r}. '
            'docs/datasets.md tells where CamVid comes from and '
            'tools/dataset_converters/camvid.py converts the raw release; '
            "type='mmpfb.StreetScenesDataset' draws its own images and needs no download."
        )
