"""Random batches in the form that a config trains on, to measure with."""

from typing import Any

import torch
from mmengine.config import Config


def synthetic_batch(config: Config, batch_size: int, seed: int = 0) -> dict[str, list]:
    """Return random images and labels of the size that a config trains on.

    Args:
        config: Configuration of a segmentor or of a classifier.
        batch_size: Number of images.
        seed: Seed of the images and labels.

    Returns:
        ``inputs``, a list of uint8 images ``(3, H, W)``, and ``data_samples``, as a data loader of
        the host gives them.

    Raises:
        ValueError: If the config does not tell the size of its images or their classes.
    """
    height, width = image_size(config)
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, 3, height, width)
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    make_samples = _segmentation_samples if 'decode_head' in config.model else _class_samples
    return {
        'inputs': list(images),
        'data_samples': make_samples(config, batch_size, (height, width), generator),
    }


def image_size(config: Config) -> tuple[int, int]:
    """Return height and width of the images that a config trains on.

    It is the size of the data preprocessor (MMSegmentation) or what the crops and resizes of the
    training pipeline make (MMPretrain).

    Raises:
        ValueError: If neither tells it.
    """
    preprocessor = config.model.get('data_preprocessor') or {}
    size = preprocessor.get('size')
    dataset = config.train_dataloader.dataset
    while 'dataset' in dataset:
        # A wrapper such as RepeatDataset.
        dataset = dataset.dataset
    for transform in dataset.get('pipeline', []) if size is None else []:
        size = _size_after(transform, size)
    if size is None:
        raise ValueError(
            'Expected the config to tell the size of its images in `data_preprocessor.size` or in '
            'a crop or resize of the training pipeline, but found neither.'
        )
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _size_after(transform: dict[str, Any], size: Any) -> Any:
    kind = transform['type']
    if 'crop_size' in transform:
        return transform['crop_size']
    if kind == 'RandomResizedCrop':
        return transform['scale']
    if kind == 'Resize' and not transform.get('keep_ratio', False):
        # The one that takes width before height.
        scale = transform['scale']
        return scale if isinstance(scale, int) else tuple(scale)[::-1]
    # After a resize that keeps the ratio the size depends on the image.
    return None if kind in ('Resize', 'ResizeEdge') else size


def _segmentation_samples(
    config: Config, batch_size: int, shape: tuple[int, int], generator: torch.Generator
) -> list[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    head = config.model.decode_head
    num_classes = (head[-1] if isinstance(head, (list, tuple)) else head).num_classes
    labels = torch.randint(0, num_classes, (batch_size, 1, *shape), generator=generator)
    return [
        SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={'img_shape': shape})
        for label in labels
    ]


def _class_samples(
    config: Config, batch_size: int, shape: tuple[int, int], generator: torch.Generator
) -> list[Any]:
    from mmpretrain.structures import DataSample

    # TimmClassifier has no head of its own.
    num_classes = config.model.get('head', config.model).get('num_classes')
    if num_classes is None:
        raise ValueError(
            'Expected the config to tell the number of classes in `model.head.num_classes` or '
            '`model.num_classes`, but it does not; only heads with one label per image are '
            'supported here.'
        )
    labels = torch.randint(0, num_classes, (batch_size,), generator=generator)
    return [DataSample(metainfo={'img_shape': shape}).set_gt_label(label) for label in labels]
