import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS as ROOT_DATASETS
from PIL import Image

from mmpfb.datasets import CamVidDataset

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
PREFIX = dict(img_path='images/train', seg_map_path='annotations/train')
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def camvid(tmp_path):
    """Two frames; in each, the class id grows from left to right and ends in void."""
    labels = np.repeat(np.array([[*range(11), 255]], dtype=np.uint8), 8, axis=0)
    for folder in PREFIX.values():
        (tmp_path / folder).mkdir(parents=True)
    for name, grey in (('b', 200), ('a', 100)):
        image = np.full((8, 12, 3), grey, dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / 'images/train' / f'{name}.jpg')
        Image.fromarray(labels).save(tmp_path / 'annotations/train' / f'{name}.png')
    return tmp_path


def test_classes_stand_in_the_order_of_the_label_values():
    assert CamVidDataset.METAINFO['classes'] == (
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
    )


def test_palette_has_one_usual_colour_for_each_class():
    classes, palette = CamVidDataset.METAINFO['classes'], CamVidDataset.METAINFO['palette']
    assert len({tuple(colour) for colour in palette}) == len(classes)
    assert palette[classes.index('sky')] == [128, 128, 128]
    assert palette[classes.index('road')] == [128, 64, 128]
    assert palette[classes.index('bicyclist')] == [0, 128, 192]


def test_images_and_labels_are_loaded_in_pairs_sorted_by_name(camvid):
    dataset = ROOT_DATASETS.build(
        dict(
            type='mmpfb.CamVidDataset',
            data_root=str(camvid),
            data_prefix=PREFIX,
            pipeline=PIPELINE,
        )
    )
    assert isinstance(dataset, CamVidDataset)
    assert len(dataset) == 2
    assert dataset.ignore_index == 255
    for index, grey in enumerate((100, 200)):
        sample = dataset[index]
        assert abs(int(sample['img'].mean()) - grey) <= 2
        assert sample['gt_seg_map'][0].tolist() == [*range(11), 255]


def test_a_subset_of_the_classes_can_be_chosen(camvid):
    dataset = CamVidDataset(
        data_root=str(camvid),
        data_prefix=PREFIX,
        pipeline=PIPELINE,
        metainfo=dict(classes=('road', 'car')),
    )
    assert dataset.metainfo['palette'] == [[128, 64, 128], [64, 0, 128]]
    labels = dataset[0]['gt_seg_map'][0]
    assert labels[3] == 0 and labels[8] == 1
    assert np.delete(labels, [3, 8]).tolist() == [255] * 10


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_a_missing_folder_is_named_with_the_expected_layout(camvid, key):
    prefix = {**PREFIX, key: 'nowhere/train'}
    pattern = r"nowhere/train' does not exist.*<data_root>/images/\{train,val\}/\*\.jpg"
    with pytest.raises(FileNotFoundError, match=pattern):
        CamVidDataset(data_root=str(camvid), data_prefix=prefix, pipeline=PIPELINE)


def test_the_message_tells_where_data_can_come_from(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        CamVidDataset(data_root=str(tmp_path), data_prefix=PREFIX)
    for hint in ('docs/datasets.md', 'dataset_converters/camvid.py', 'StreetScenesDataset'):
        assert hint in str(caught.value)
    assert (REPOSITORY / 'docs/datasets.md').is_file()
    assert (REPOSITORY / 'tools/dataset_converters/camvid.py').is_file()


def test_a_folder_without_images_is_refused(camvid):
    for path in (camvid / 'images/train').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"images/train' holds no image \*\.jpg"):
        CamVidDataset(data_root=str(camvid), data_prefix=PREFIX)


def test_lazy_initialisation_defers_the_check(tmp_path):
    dataset = CamVidDataset(data_root=str(tmp_path), data_prefix=PREFIX, lazy_init=True)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        dataset.full_init()


def test_the_sky_cannot_be_turned_into_void():
    with pytest.raises(ValueError, match='`reduce_zero_label` to be False.*got True'):
        CamVidDataset(reduce_zero_label=True)


def _real_camvid(tmp_path: Path) -> Path:
    """Folder of the real data set: given, or the first frames of an archive, unpacked."""
    given = os.environ.get('MMPFB_CAMVID')
    source = Path(given) if given else REPOSITORY.parent / 'shared/data/camvid.tar'
    if not source.exists():
        pytest.skip(f'no CamVid at {str(source)!r}; set MMPFB_CAMVID to a folder or a .tar')
    if source.is_dir():
        return source
    with tarfile.open(source) as archive:
        members = [entry for entry in archive.getmembers() if entry.isfile()]
        frames = sorted(Path(entry.name).stem for entry in members if '/val/' in entry.name)
        chosen = [
            entry
            for entry in members
            if '/val/' in entry.name and Path(entry.name).stem in frames[:8]
        ]
        for entry in chosen:
            path = tmp_path / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(entry).read())
    return tmp_path / 'camvid'


def test_real_camvid_frames_are_read(tmp_path):
    dataset = CamVidDataset(
        data_root=str(_real_camvid(tmp_path)),
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=PIPELINE,
    )
    assert len(dataset) > 0
    for index in range(min(len(dataset), 4)):
        sample = dataset[index]
        labels = sample['gt_seg_map']
        assert sample['img'].shape[:2] == labels.shape
        assert set(np.unique(labels)) <= {*range(11), 255}
        # A road scene: asphalt at the bottom, and the sky brighter than the asphalt.
        rows = np.arange(labels.shape[0])[:, None] * np.ones_like(labels, dtype=float)
        assert rows[labels == 3].mean() > rows[labels == 0].mean()
        assert sample['img'][labels == 0].mean() > sample['img'][labels == 3].mean()
