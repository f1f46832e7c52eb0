"""CIFAR-10 and CIFAR-100, from the official pickles or from class folders of image files."""

from pathlib import Path

import mmcv
import numpy as np
from mmengine.logging import print_log
from mmpretrain.datasets import CIFAR10, CIFAR100

from mmpfb.core.checks import check_positive_int
from mmpfb.registry import DATASETS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
IMAGE_SHAPE = (32, 32, 3)


class ClassFolders:
    """Adds class folders and a balanced subset to the CIFAR data sets of MMPretrain.

    Args:
        *args: Passed on to the stock data set.
        images_per_class: Use the first so many images of every class; None uses all.
        **kwargs: Passed on to the stock data set: ``data_root``, ``split``, ``pipeline``, ...

    Raises:
        FileNotFoundError: If there are class folders, but not one for every class, an empty one, or
            only those of the other split. With ``lazy_init=True`` this is raised by
            ``full_init()``.
        ValueError: If ``images_per_class`` is not positive or more than a class has, or a file is
            no image of 32x32 pixels.
    """

    def __init__(self, *args, images_per_class: int | None = None, **kwargs) -> None:
        if images_per_class is not None:
            check_positive_int('images_per_class', images_per_class)
        self._images_per_class = images_per_class
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict per image with ``img`` as RGB ``(32, 32, 3)`` and ``gt_label``.

        Images of class folders also have their ``img_path``. They are decoded here, once: files of
        one kilobyte cost more to open than to augment.
        """
        root = Path(self.data_prefix['root'])
        folder = root / self.split
        others = [name for name in ('train', 'test') if (root / name).is_dir()]
        if others and not folder.is_dir() and not (root / self.base_folder).is_dir():
            # The stock data set would begin to download.
            raise FileNotFoundError(
                f'Expected the folder {str(folder)!r} beside {others[0]!r}, but there is none.'
            )
        data_list = self._read_folders(folder) if folder.is_dir() else super().load_data_list()
        if self._images_per_class is None:
            return data_list
        return self._first_of_every_class(data_list)

    def _read_folders(self, folder: Path) -> list[dict]:
        data_list: list[dict] = []
        for label, name in enumerate(self.CLASSES):
            paths = [
                path
                for path in folder.glob(f'{name}/*')
                if path.suffix.lower() in IMAGE_SUFFIXES
            ]
            if not paths:
                raise FileNotFoundError(
                    f'Expected images ({", ".join(IMAGE_SUFFIXES)}) in {str(folder / name)!r}, one '
                    'folder for every class, but found none. Without a folder '
                    f'{self.split!r} the official pickles are read (docs/datasets.md).'
                )
            data_list += [
                {
                    'img': _read_image(path),
                    'img_path': str(path),
                    'gt_label': label,
                }
                for path in sorted(paths)[: self._images_per_class]
            ]
        print_log(f'Read {len(data_list)} images from the class folders of {folder}.', 'current')
        return data_list

    def _first_of_every_class(self, data_list: list[dict]) -> list[dict]:
        taken, counts = [], [0] * len(self.CLASSES)
        for entry in data_list:
            if counts[entry['gt_label']] < self._images_per_class:
                counts[entry['gt_label']] += 1
                taken.append(entry)
        if min(counts) < self._images_per_class:
            raise ValueError(
                f'Expected argument `images_per_class` to be at most {min(counts)}, the size of '
                f'the smallest class, but got {self._images_per_class}.'
            )
        return taken


def _read_image(path: Path) -> np.ndarray:
    try:
        image = mmcv.imread(str(path), channel_order='rgb')
    except Exception as error:  # noqa: BLE001 - each decoder has its own
        raise ValueError(f'Expected {str(path)!r} to be an image, but cannot read it.') from error
    if image.shape != IMAGE_SHAPE:
        raise ValueError(
            f'Expected {str(path)!r} to be an image of shape {IMAGE_SHAPE}, but got {image.shape}.'
        )
    return image


@DATASETS.register_module()
class CIFAR10Dataset(ClassFolders, CIFAR10):
    """CIFAR-10 (Krizhevsky 2009): pickles, or ``<data_root>/<split>/<class>/*.jpg``.

    Example:
        >>> train = CIFAR10Dataset(  # doctest: +SKIP
        ...     data_root='data/cifar10', split='train', images_per_class=1000)
    """


@DATASETS.register_module()
class CIFAR100Dataset(ClassFolders, CIFAR100):
    """CIFAR-100 (Krizhevsky 2009): pickles, or ``<data_root>/<split>/<class>/*.jpg``."""
