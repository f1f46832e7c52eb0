"""Names of images: what a batch and its data set have in common to tell one image from another."""

from collections.abc import Mapping
from typing import Any

# Images of a pickled data set have no file of their own; their number names them.
NAME_KEYS = ('img_path', 'sample_idx')


def image_name(sample: Any) -> str:
    """Return the name of the image of a data sample, as its ``metainfo`` gives it.

    Raises:
        ValueError: If it gives none.
    """
    name = _name(sample.metainfo)
    if name is None:
        raise ValueError(
            "Expected data samples with 'img_path' or 'sample_idx' in their metainfo, but got "
            f'{sorted(sample.metainfo)}; add one to `meta_keys` of the packing transform.'
        )
    return name


def image_names(dataset: Any) -> list[str]:
    """Return the name of the image at every index of a data set, without loading an image.

    Repeated data sets give the same name several times.

    Raises:
        TypeError: If the data set does not tell about images it has not loaded.
        ValueError: If it holds an image without a name, or two with the same one.
    """
    if not hasattr(dataset, 'get_data_info'):
        raise TypeError(
            'Expected a data set with `get_data_info`, as those of MMEngine have, to know its '
            f'images by name, but got {type(dataset).__name__}.'
        )
    names = []
    are_paths = True
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        name = _name(info)
        if name is None:
            raise ValueError(
                "Expected the data set to give 'img_path' or 'sample_idx' for every image, but "
                f'index {index} has {sorted(info)}.'
            )
        are_paths = are_paths and info.get('img_path') is not None
        names.append(name)
    if not are_paths and len(set(names)) < len(names) and _is_joined(dataset):
        raise ValueError(
            'Expected every image of joined data sets to have a name of its own, but they only '
            "have a 'sample_idx', which begins at 0 in each; add an 'img_path' to their data."
        )
    return names


def _name(info: Mapping[str, Any]) -> str | None:
    for key in NAME_KEYS:
        if info.get(key) is not None:
            return str(info[key])
    return None


def _is_joined(dataset: Any) -> bool:
    """Whether a data set is made of several, below any number of wrappers."""
    while dataset is not None:
        if len(getattr(dataset, 'datasets', ())) > 1:
            return True
        dataset = getattr(dataset, 'dataset', None)
    return False
