"""CIFAR-10 and CIFAR-100, from the official pickles or from class folders of image files."""

from pathlib import Path

import mmcv
from mmengine.logging import print_log
from mmpretrain.datasets import CIFAR10, CIFAR100

from mmpfb.core.checks import check_positive_int
from mmpfb.registry import DATASETS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')


class ClassFolders:
    """Adds class folders and a balanced subset to the CIFAR data sets of MMPretrain.

    Args:
        images_per_class: Use the first so many images of every class; None uses all.
        **kwargs: Passed on to the stock data set: ``data_root``, ``split``, ``pipeline``, ...

    Raises:
        FileNotFoundError: If there are class folders, but not one for every class, or an empty one.
            With ``lazy_init=True`` this is raised by ``full_init()``.
        ValueError: If ``images_per_class`` is not positive, or more than a class has.
    """

    def __init__(self, images_per_class: int | None = None, **kwargs) -> None:
        if images_per_class is not None:
            check_positive_int('images_per_class', images_per_class)
        self._images_per_class = images_per_class
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict per image with ``img`` as RGB ``(32, 32, 3)`` and ``gt_label``.

        Images of class folders also have their ``img_path``. They are decoded here, once: files of
        one kilobyte cost more to open than to augment.
        """
        folder = Path(self.data_prefix['root'], self.split)
        data_list = self._read_folders(folder) if folder.is_dir() else super().load_data_list()
        if self._images_per_class is None:
            return data_list
        return self._first_of_every_class(data_list)

    def _read_folders(self, folder: Path) -> list[dict]:
        data_list: list[dict] = []
        for label, name in enumerate(self.CLASSES):
            paths = [path for path in folder.glob(f'{name}/*') if path.suffix in IMAGE_SUFFIXES]
            if not paths:
                raise FileNotFoundError(
                    f'Expected images ({", ".join(IMAGE_SUFFIXES)}) in {str(folder / name)!r}, one '
                    'folder for every class, but found none. Without a folder '
                    f'{self.split!r} the official pickles are read (docs/datasets.md).'
                )
            data_list += [
                {
                    'img': mmcv.imread(str(path), channel_order='rgb'),
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
