"""Settings shared by all tests."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if item.get_closest_marker('gpu') is not None:
            item.add_marker(skip)


def _forget_instances(cls: type) -> None:
    for subclass in cls.__subclasses__():
        _forget_instances(subclass)
    cls._instance_dict.clear()


@pytest.fixture(autouse=True)
def clean_mmengine():
    """Undo what a runner leaves behind: default scope, message hub, visualizer and log files.

    Looked up in `sys.modules`, so that tests of the core do not pull MMEngine in.
    """
    yield
    if 'mmengine.runner' not in sys.modules:
        return
    from mmengine.logging import MMLogger
    from mmengine.utils import ManagerMixin

    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if hasattr(handler, 'baseFilename'):
                handler.close()
                logger.removeHandler(handler)
    _forget_instances(ManagerMixin)


@pytest.fixture(scope='session')
def repository() -> Path:
    """Root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def tiny_camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid's layout with eight training and two validation images of 64x64.

    The upper half of an image is sky and the lower half road, with a void line between.
    """
    root = tmp_path_factory.mktemp('camvid')
    generator = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 2)):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            image[:32] += 150
            labels = np.zeros((64, 64), np.uint8)
            labels[32:] = 3
            labels[31] = 255
            Image.fromarray(image).save(root / 'images' / split / f'{index}.jpg')
            Image.fromarray(labels).save(root / 'annotations' / split / f'{index}.png')
    return root
