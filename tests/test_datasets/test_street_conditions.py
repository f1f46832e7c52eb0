import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.datasets import BaseDataset
from PIL import Image

from mmpfb.datasets import StreetConditionsDataset, StreetScenesDataset
from mmpfb.datasets.street_scenes import files

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = dict(num_train=4, num_val=2, size=(48, 40), seed=3)
CLASSES = ('clear', 'overcast', 'dusk', 'night', 'fog', 'rain', 'snow', 'crowd', 'roadworks')


def build(root, **settings):
    return ROOT_DATASETS.build(
        {'type': 'mmpfb.StreetConditionsDataset', 'data_root': str(root), **SMALL, **settings}
    )


@pytest.mark.parametrize(('split', 'number'), [('train', 4), ('val', 2)])
def test_every_image_has_the_label_of_its_condition(tmp_path, split, number):
    dataset = build(tmp_path / 'set', split=split, pipeline=[dict(type='LoadImageFromFile')])

    assert type(dataset) is StreetConditionsDataset and isinstance(dataset, BaseDataset)
    assert dataset.metainfo['classes'] == CLASSES
    folder = tmp_path / 'set/images' / split
    paths = [folder / f'{split}_{index:05d}.jpg' for index in range(number)]
    assert [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))] == [
        str(path) for path in paths
    ]
    conditions = json.loads((tmp_path / 'set/conditions.json').read_text())
    for index, path in enumerate(paths):
        info = dataset[index]
        assert CLASSES[info['gt_label']] == conditions[path.name]
        # The loader gives blue first.
        assert (info['img'][..., ::-1] == np.array(Image.open(path))).all()


def test_every_condition_gets_its_own_label(tmp_path):
    root = tmp_path / 'set'
    build(root)
    names = [f'train_{index:05d}.jpg' for index in range(4)]
    path = root / 'conditions.json'
    chosen = dict(zip(names, ('roadworks', 'clear', 'fog', 'overcast'), strict=True))
    path.write_text(json.dumps({**json.loads(path.read_text()), **chosen}))

    assert build(root).get_gt_labels().tolist() == [8, 0, 4, 1]


def test_both_data_sets_share_one_drawing(tmp_path, monkeypatch):
    conditions = build(tmp_path / 'set')
    monkeypatch.setattr(files, 'draw_indexed_scene', None)
    scenes = StreetScenesDataset(
        data_root=str(tmp_path / 'set'),
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        **SMALL,
    )

    assert [scenes.get_data_info(index)['img_path'] for index in range(4)] == [
        conditions.get_data_info(index)['img_path'] for index in range(4)
    ]
    assert len(build(tmp_path / 'set')) == 4


def test_drawing_waits_until_it_is_needed(tmp_path):
    dataset = build(tmp_path / 'set', lazy_init=True)
    assert not (tmp_path / 'set').exists()
    dataset.full_init()
    assert len(dataset) == 4


def test_unknown_splits_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="`split` to be one of 'train', 'val', but got 'test'"):
        build(tmp_path / 'set', split='test')
    assert not (tmp_path / 'set').exists()


@pytest.mark.parametrize('missing', [None, ''])
def test_the_folder_has_to_be_named(missing):
    with pytest.raises(ValueError, match=f'`data_root` to be the path of a folder, but got '
                                         f'{missing!r}'):
        StreetConditionsDataset(data_root=missing)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds other files and no street_scenes.json'):
        build(tmp_path)
    build(tmp_path / 'set')
    with pytest.raises(ValueError, match='were drawn with'):
        build(tmp_path / 'set', seed=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['notes.txt', 'set']


def test_numbers_of_images_are_checked(tmp_path):
    with pytest.raises(ValueError, match='`num_train` to be an integer of at least 1, but got 0'):
        build(tmp_path, num_train=0)


def test_pipelines_of_the_config(tmp_path):
    config = Config.fromfile(REPOSITORY / 'configs/_base_/datasets/street_conditions.py')
    settings = {'data_root': str(tmp_path / 'set'), 'num_train': 2, 'num_val': 1}
    train = ROOT_DATASETS.build({**config.train_dataloader.dataset, **settings})
    val = ROOT_DATASETS.build({**config.val_dataloader.dataset, **settings})

    assert (len(train), len(val)) == (2, 1)
    assert train[0]['inputs'].shape == (3, 72, 72)
    assert val[0]['inputs'].shape == (3, 80, 80)
    sample = train[1]['data_samples']
    assert sample.img_path == str(tmp_path / 'set/images/train/train_00001.jpg')
    assert sample.gt_label.tolist() == [train.get_data_info(1)['gt_label']]
    assert len(train.metainfo['classes']) == config.data_preprocessor.num_classes
