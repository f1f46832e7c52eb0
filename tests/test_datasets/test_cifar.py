import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.datasets import CIFAR10, CIFAR100
from PIL import Image

from mmpfb.datasets import CIFAR10Dataset, CIFAR100Dataset

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = 'airplane automobile bird cat deer dog frog horse ship truck'.split()


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """List the folders that something would have been downloaded to."""
    folders = []

    def refuse(url, root, **kwargs):
        folders.append(root)
        raise ConnectionError('no downloads in tests')

    monkeypatch.setattr('mmpretrain.datasets.cifar.download_and_extract_archive', refuse)
    return folders


def read(folder, split):
    """Images and labels of class folders, read by other means than the data set."""
    paths = sorted((folder / split).glob('*/*.png'))
    images = [np.array(Image.open(path)) for path in paths]
    return np.stack(images), [CLASSES.index(path.parent.name) for path in paths]


def shuffled(images, labels, seed=0):
    order = np.random.default_rng(seed).permutation(len(labels))
    return images[order], [labels[index] for index in order]


@pytest.fixture
def tiny_pickles(tiny_cifar, tmp_path, write_cifar_pickles):
    """The images of `tiny_cifar` as official pickles, classes mixed as they are there."""
    write_cifar_pickles(
        tmp_path / 'pickles',
        CIFAR10Dataset,
        train=shuffled(*read(tiny_cifar, 'train')),
        test=shuffled(*read(tiny_cifar, 'test')),
    )
    return tmp_path / 'pickles'


# ---- Class folders ---------------------------------------------------------------------------


@pytest.mark.parametrize(('split', 'count'), [('train', 4), ('test', 2)])
def test_class_folders_give_rgb_images_in_the_order_of_the_classes(tiny_cifar, split, count):
    dataset = ROOT_DATASETS.build(
        dict(type='mmpfb.CIFAR10Dataset', data_root=str(tiny_cifar), split=split)
    )

    assert type(dataset) is CIFAR10Dataset and isinstance(dataset, CIFAR10)
    assert list(dataset.metainfo['classes']) == CLASSES
    expected = [
        (label, tiny_cifar / split / name / f'{index}.png')
        for label, name in enumerate(CLASSES)
        for index in range(count)
    ]
    assert len(dataset) == len(expected)
    for number, (label, path) in enumerate(expected):
        info = dataset[number]
        assert (info['gt_label'], info['img_path']) == (label, str(path))
        assert info['img'].dtype == np.uint8
        assert (info['img'] == np.array(Image.open(path))).all()
        assert (info['img'][..., 0] == 20 * label + int(path.stem)).all()


def test_jpeg_files_are_images_and_others_are_not(tiny_cifar, tmp_path):
    root = tmp_path / 'cifar'
    shutil.copytree(tiny_cifar / 'test', root / 'train')
    for name in ('a.jpg', 'b.jpeg'):
        Image.new('RGB', (32, 32), (200, 120, 10)).save(root / 'train/deer' / name, quality=95)
    (root / 'train/deer/notes.txt').write_text('no image')
    dataset = CIFAR10Dataset(data_root=str(root))

    deer = [info for info in map(dataset.get_data_info, range(len(dataset)))
            if info['gt_label'] == CLASSES.index('deer')]
    assert [Path(info['img_path']).name for info in deer] == ['0.png', '1.png', 'a.jpg', 'b.jpeg']
    for info in deer[2:]:
        assert np.abs(info['img'].astype(int) - (200, 120, 10)).max() <= 3


@pytest.mark.parametrize('lazy', [False, True])
@pytest.mark.parametrize('what', ['no folder', 'an empty folder'])
def test_a_class_without_images_is_named(tiny_cifar, tmp_path, downloads, what, lazy):
    shutil.copytree(tiny_cifar, tmp_path / 'cifar')
    shutil.rmtree(tmp_path / 'cifar/train/frog')
    if what == 'an empty folder':
        (tmp_path / 'cifar/train/frog').mkdir()
        (tmp_path / 'cifar/train/frog/notes.txt').write_text('no image')

    def build():
        return CIFAR10Dataset(data_root=str(tmp_path / 'cifar'), lazy_init=lazy)

    act = build().full_init if lazy else build
    with pytest.raises(FileNotFoundError, match=r"cifar/train/frog', one folder for every class"):
        act()
    assert downloads == []


def test_the_data_root_may_be_positional_and_suffixes_in_capitals(tiny_cifar, tmp_path):
    shutil.copytree(tiny_cifar / 'test', tmp_path / 'test')
    (tmp_path / 'test/deer/0.png').rename(tmp_path / 'test/deer/0.PNG')
    assert len(CIFAR10Dataset(str(tmp_path), 'test')) == 20


def test_a_missing_split_beside_the_other_one_downloads_nothing(tiny_cifar, tmp_path, downloads):
    shutil.copytree(tiny_cifar / 'test', tmp_path / 'test')
    with pytest.raises(FileNotFoundError, match="train' beside 'test', but there is none"):
        CIFAR10Dataset(data_root=str(tmp_path), split='train')
    assert downloads == []


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: path.write_bytes(b'broken'), "cat/1.png' to be an image, but cannot read"),
        (lambda path: Image.new('RGB', (33, 32)).save(path),
         r"cat/1.png' to be an image of shape \(32, 32, 3\), but got \(32, 33, 3\)"),
    ],
    ids=['broken', 'another size'],
)
def test_a_wrong_image_is_named(tiny_cifar, tmp_path, write, message):
    shutil.copytree(tiny_cifar / 'train', tmp_path / 'train')
    write(tmp_path / 'train/cat/1.png')
    with pytest.raises(ValueError, match=message):
        CIFAR10Dataset(data_root=str(tmp_path))


# ---- Official pickles ------------------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'test'])
def test_both_layouts_give_the_same_images_and_labels(tiny_cifar, tiny_pickles, split, downloads):
    def contents(root):
        dataset = CIFAR10Dataset(data_root=str(root), split=split)
        infos = [dataset[index] for index in range(len(dataset))]
        assert all(info['img'].shape == (32, 32, 3) for info in infos)
        return sorted((info['gt_label'], info['img'].tobytes()) for info in infos)

    expected = sorted((label, image.tobytes()) for image, label in zip(*read(tiny_cifar, split),
                                                                       strict=True))
    assert contents(tiny_cifar) == contents(tiny_pickles) == expected
    assert downloads == []


def test_class_folders_of_one_split_leave_the_pickles_of_the_other(tiny_cifar, tiny_pickles):
    shutil.copytree(tiny_cifar / 'test', tiny_pickles / 'test')

    train = CIFAR10Dataset(data_root=str(tiny_pickles))
    test = CIFAR10Dataset(data_root=str(tiny_pickles), split='test')
    assert 'img_path' not in train[0] and len(train) == 40
    assert 'img_path' in test[0] and len(test) == 20


def test_damaged_pickles_are_noticed(tiny_pickles):
    with (tiny_pickles / 'cifar-10-batches-py/data_batch_3').open('ab') as file:
        file.write(b'more')
    with pytest.raises(RuntimeError, match='Cannot find CIFAR10Dataset dataset'):
        CIFAR10Dataset(data_root=str(tiny_pickles), download=False)


def test_an_empty_folder_is_where_the_pickles_are_downloaded_to(tmp_path, downloads):
    with pytest.raises(ConnectionError):
        CIFAR10Dataset(data_root=str(tmp_path))
    assert [Path(folder) for folder in downloads] == [tmp_path]


def test_cifar100_has_a_hundred_classes_in_both_layouts(tmp_path, write_cifar_pickles):
    assert issubclass(CIFAR100Dataset, CIFAR100)
    classes = CIFAR100Dataset.METAINFO['classes']
    assert len(set(classes)) == 100
    assert (classes[0], classes[23], classes[99]) == ('apple', 'cloud', 'worm')
    images = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    for name, image in zip(classes, images, strict=True):
        (tmp_path / 'folders/train' / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / 'folders/train' / name / 'only.png')
    mixed = shuffled(images, list(range(100)))
    write_cifar_pickles(tmp_path / 'pickles', CIFAR100Dataset, train=mixed, test=mixed)

    for layout in ('folders', 'pickles'):
        dataset = ROOT_DATASETS.build(
            dict(type='mmpfb.CIFAR100Dataset', data_root=str(tmp_path / layout), split='train')
        )
        labels = dataset.get_gt_labels().tolist()
        assert sorted(labels) == list(range(100))
        for index, label in enumerate(labels):
            assert (dataset[index]['img'] == images[label]).all()


# ---- A part of every class -------------------------------------------------------------------


def test_first_images_of_every_class_folder(tiny_cifar):
    dataset = CIFAR10Dataset(data_root=str(tiny_cifar), images_per_class=3)

    assert dataset.get_gt_labels().tolist() == [label for label in range(10) for _ in range(3)]
    assert [Path(dataset[index]['img_path']).stem for index in range(6)] == ['0', '1', '2'] * 2


def test_first_images_of_every_class_in_the_pickles(tiny_cifar, tiny_pickles):
    everything = CIFAR10Dataset(data_root=str(tiny_pickles))
    dataset = CIFAR10Dataset(data_root=str(tiny_pickles), images_per_class=3)

    expected, counts = [], [0] * 10
    for label in everything.get_gt_labels():
        counts[label] += 1
        expected.append(counts[label] <= 3)
    kept = [everything[index]['img'] for index in np.flatnonzero(expected)]
    assert len(dataset) == len(kept) == 30
    for index, image in enumerate(kept):
        assert (dataset[index]['img'] == image).all()


def test_the_whole_of_every_class_may_be_asked_for(tiny_cifar, tiny_pickles):
    for root in (tiny_cifar, tiny_pickles):
        assert len(CIFAR10Dataset(data_root=str(root), images_per_class=4)) == 40


@pytest.mark.parametrize('layout', ['folders', 'pickles'])
def test_more_images_than_the_smallest_class_has_are_refused(
    tiny_cifar, tmp_path, write_cifar_pickles, layout
):
    images, labels = read(tiny_cifar, 'train')
    if layout == 'folders':
        root = shutil.copytree(tiny_cifar, tmp_path / 'cifar')
        (root / 'train/horse/2.png').unlink()
    else:
        root = tmp_path / 'pickles'
        gone = labels.index(CLASSES.index('horse'))
        part = np.delete(images, gone, 0), labels[:gone] + labels[gone + 1 :]
        write_cifar_pickles(root, CIFAR10Dataset, train=part, test=part)

    assert len(CIFAR10Dataset(data_root=str(root), images_per_class=3)) == 30
    with pytest.raises(ValueError, match='to be at most 3, the size of the smallest class, but '
                                         'got 4'):
        CIFAR10Dataset(data_root=str(root), images_per_class=4)


@pytest.mark.parametrize('value', [0, -1, True, 2.5, '3'])
def test_wrong_numbers_of_images_are_refused(tiny_cifar, value):
    pattern = f'`images_per_class` to be an integer of at least 1, but got {value!r}'
    with pytest.raises(ValueError, match=pattern):
        CIFAR10Dataset(data_root=str(tiny_cifar), images_per_class=value, lazy_init=True)


# ---- The configs -----------------------------------------------------------------------------


@pytest.mark.parametrize('layout', ['folders', 'pickles'])
def test_pipelines_of_the_config_take_both_layouts(tiny_cifar, tiny_pickles, layout):
    config = Config.fromfile(REPOSITORY / 'configs/_base_/datasets/cifar10.py')
    root = tiny_cifar if layout == 'folders' else tiny_pickles
    for loader, number in ((config.train_dataloader, 40), (config.test_dataloader, 20)):
        dataset = ROOT_DATASETS.build({**loader.dataset, 'data_root': str(root)})
        assert len(dataset) == number
        for index in range(0, number, 5):
            packed, info = dataset[index], dataset.get_data_info(index)
            assert packed['inputs'].shape == (3, 32, 32)
            assert packed['data_samples'].gt_label.tolist() == [info['gt_label']]
            # The record of a run names an image by one of these.
            assert packed['data_samples'].sample_idx == index
            assert packed['data_samples'].get('img_path') == info.get('img_path')
            if loader is config.test_dataloader:
                assert (packed['inputs'].permute(1, 2, 0).numpy() == info['img']).all()


# ---- Real images -----------------------------------------------------------------------------


def _real_cifar10(tmp_path: Path) -> Path:
    """Folder of the real data set: given, or forty images a class of an archive, unpacked."""
    given = os.environ.get('MMPFB_CIFAR10')
    source = Path(given) if given else REPOSITORY.parent / 'shared/data/cifar10.tar.gz'
    if not source.exists():
        pytest.skip(
            f'no CIFAR-10 at {str(source)!r}; set MMPFB_CIFAR10 to a folder or a .tar.gz'
        )
    if source.is_dir():
        return source
    with tarfile.open(source) as archive:
        for entry in archive:
            path = Path(entry.name)
            if entry.isfile() and path.parts[1] == 'test' and path.stem < '0040':
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(archive.extractfile(entry).read())
    return tmp_path / 'cifar10'


def test_real_images_have_their_colours_and_labels(tmp_path):
    dataset = CIFAR10Dataset(
        data_root=str(_real_cifar10(tmp_path)), split='test', images_per_class=40
    )

    labels = dataset.get_gt_labels()
    assert np.bincount(labels).tolist() == [40] * 10
    images = np.stack([dataset[index]['img'] for index in range(400)]).astype(float)
    surplus_of_blue = {
        name: (images[labels == label, ..., 2] - images[labels == label, ..., 0]).mean()
        for label, name in enumerate(CLASSES)
    }
    # Sky and sea against fur and grass.
    for name in ('airplane', 'ship'):
        assert surplus_of_blue[name] > 3
    for name in ('cat', 'deer', 'dog', 'frog', 'horse'):
        assert surplus_of_blue[name] < -3
