"""Settings shared by all tests."""

import pickle
import sys
from hashlib import md5
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


@pytest.fixture(scope='session')
def tiny_cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as class folders, with four training and two test images of each class.

    They are PNG, so that pixels survive, and noise but for red, which tells class and number.
    """
    root = tmp_path_factory.mktemp('cifar10')
    names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('test', 2)):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                image[..., 0] = 20 * label + index
                Image.fromarray(image).save(folder / f'{index}.png')
    return root


@pytest.fixture
def write_cifar_pickles(monkeypatch: pytest.MonkeyPatch):
    """Write images and labels as the official files, and give the data set their checksums."""

    def write(root: Path, dataset: type, train: tuple, test: tuple) -> None:
        hundred = dataset.__name__.startswith('CIFAR100')
        folder = root / ('cifar-100-python' if hundred else 'cifar-10-batches-py')
        folder.mkdir(parents=True)
        train_files = ['train'] if hundred else [f'data_batch_{number}' for number in range(1, 6)]
        test_files = ['test'] if hundred else ['test_batch']
        for split, files, (images, labels) in (
            ('train', train_files, train),
            ('test', test_files, test),
        ):
            # A row of an official file is the red plane, then green, then blue.
            rows = np.asarray(images, np.uint8).transpose(0, 3, 1, 2).reshape(len(labels), 3072)
            checksums = []
            parts = np.array_split(range(len(labels)), len(files))
            for name, part in zip(files, parts, strict=True):
                own_labels = [int(labels[index]) for index in part]
                content = {'data': rows[part]}
                if hundred:
                    coarse_labels = [label // 5 for label in own_labels]
                    content |= {'fine_labels': own_labels, 'coarse_labels': coarse_labels}
                else:
                    content['labels'] = own_labels
                (folder / name).write_bytes(pickle.dumps(content, protocol=2))
                checksums.append([name, md5((folder / name).read_bytes()).hexdigest()])
            monkeypatch.setattr(dataset, f'{split}_list', checksums)

    return write
