"""The drawn street scenes as a data set of MMSegmentation."""

from mmengine.logging import print_log

from mmpfb.datasets.camvid import CamVidDataset
from mmpfb.datasets.street_scenes.files import StreetScenesParameters, prepare_street_scenes
from mmpfb.registry import DATASETS


@DATASETS.register_module()
class StreetScenesDataset(CamVidDataset):
    """Drawn street scenes with the classes and the layout of CamVid, and a long tail.

    The images are not photographs. They are drawn to ``data_root`` on first use and read from
    there afterwards. About 87 % of them show a clear or an overcast day; the others show dusk,
    night, fog, rain, snow, a crowded crossing or roadworks. ``data_root/conditions.json`` maps
    each file name to its condition.

    Args:
        data_root: Folder of the set; absent or empty before the first use. Required.
        num_train: Number of training images. Defaults to 240.
        num_val: Number of validation images. Defaults to 60.
        size: Width and height of the images in pixels. Defaults to ``(160, 160)``.
        seed: Seed of the drawing. Defaults to 0.
        **kwargs: Passed to :class:`CamVidDataset`: ``data_prefix``, ``pipeline``, ...

    Raises:
        ValueError: If an argument is out of its range, or if ``data_root`` holds other files or
            a set drawn with other parameters. With ``lazy_init=True`` the latter is raised by
            ``full_init()``.

    Example:
        >>> val = StreetScenesDataset(  # doctest: +SKIP
        ...     data_root='data/street_scenes',
        ...     data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'))
    """

    def __init__(
        self,
        data_root: str | None = None,
        num_train: int = 240,
        num_val: int = 60,
        size: tuple[int, int] = (160, 160),
        seed: int = 0,
        **kwargs,
    ) -> None:
        if not data_root:
            raise ValueError(
                f'Expected argument `data_root` to be the path of a folder, but got {data_root!r}.'
            )
        self._parameters = StreetScenesParameters(num_train, num_val, size, seed)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Draw the set if it is not there yet, then list image and label paths.

        Returns:
            One dict per image, sorted by path.

        Raises:
            ValueError: If ``data_root`` holds something else.
            FileNotFoundError: If a folder of ``data_prefix`` is not part of the set.
        """
        if prepare_street_scenes(self.data_root, self._parameters):
            number = self._parameters.num_train + self._parameters.num_val
            print_log(f'Drew {number} street scenes to {self.data_root}.', logger='current')
        return super().load_data_list()
