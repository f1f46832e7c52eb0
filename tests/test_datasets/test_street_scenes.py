import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS as ROOT_DATASETS
from PIL import Image

from mmpfb.datasets import CamVidDataset, StreetScenesDataset
from mmpfb.datasets.street_scenes import (
    CONDITION_SHARES,
    StreetScenesParameters,
    draw_indexed_scene,
    draw_scene,
    files,
    prepare_street_scenes,
)
from mmpfb.datasets.street_scenes.__main__ import main
from mmpfb.datasets.street_scenes.canvas import Canvas
from mmpfb.datasets.street_scenes.drawing import SKY, _Street, condition_of

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = StreetScenesParameters(num_train=4, num_val=2, size=(48, 40), seed=3)
SMALL_KEYWORDS = dict(num_train=4, num_val=2, size=(48, 40), seed=3)
PREFIX = dict(img_path='images/train', seg_map_path='annotations/train')


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


# ---- Drawing ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def scenes():
    """Forty scenes of the default size with their conditions."""
    return [draw_indexed_scene('train', index) for index in range(40)]


def test_scene_has_the_documented_shape_and_type():
    image, labels = draw_scene(np.random.default_rng(0), size=(70, 50))
    assert image.shape == (50, 70, 3) and image.dtype == np.uint8
    assert labels.shape == (50, 70) and labels.dtype == np.uint8


def test_scene_is_a_function_of_the_generator_alone():
    state = np.random.get_state()[1].copy()
    first = draw_scene(np.random.default_rng(5), condition='rain')
    second = draw_scene(np.random.default_rng(5), condition='rain')
    other = draw_scene(np.random.default_rng(6), condition='rain')
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    assert (first[0] != other[0]).mean() > 0.5
    assert (np.random.get_state()[1] == state).all()


def test_splits_and_seeds_give_other_scenes():
    base = draw_indexed_scene('train', 0)[0]
    for other in (
        draw_indexed_scene('val', 0),
        draw_indexed_scene('train', 1),
        draw_indexed_scene('train', 0, seed=1),
    ):
        assert (base != other[0]).mean() > 0.5


def test_labels_are_class_ids_or_void_and_every_class_appears(scenes):
    pixels = np.bincount(np.stack([labels for _, labels, _ in scenes]).ravel(), minlength=256)
    assert set(np.flatnonzero(pixels)) == {*range(11), 255}
    share = pixels / pixels.sum()
    assert (share[:11] > 0.003).all()
    assert 0.001 < share[255] < 0.04


def test_each_class_appears_in_many_scenes(scenes):
    for label in range(11):
        seen = sum(bool((labels == label).any()) for _, labels, _ in scenes)
        assert seen >= len(scenes) // 3, label


def test_scenes_look_like_streets(scenes):
    for image, labels, condition in scenes:
        rows = np.arange(labels.shape[0])[:, None] * np.ones(labels.shape)
        assert rows[labels == 3].mean() > rows[labels == 1].mean() > rows[labels == 0].mean()
        if condition != 'night':
            assert image[labels == 0].mean() > image[labels == 3].mean()


@pytest.mark.parametrize('condition', CONDITION_SHARES)
def test_every_condition_can_be_drawn(condition):
    for seed in range(4):
        image, labels = draw_scene(np.random.default_rng(seed), (64, 48), condition)
        assert image.std() > 5
        assert set(np.unique(labels)) <= {*range(11), 255}


def test_conditions_differ_visibly():
    drawn = {
        name: [draw_scene(np.random.default_rng(seed), (64, 64), name) for seed in range(6)]
        for name in ('clear', 'dusk', 'night', 'fog', 'crowd')
    }
    brightness = {name: np.mean([image for image, _ in drawn[name]]) for name in drawn}
    assert brightness['night'] < 0.85 * brightness['dusk']
    assert brightness['dusk'] < 0.75 * brightness['clear']
    contrast = {name: np.mean([image.std() for image, _ in drawn[name]]) for name in drawn}
    assert contrast['fog'] < 0.85 * contrast['clear']
    people = {name: np.mean([labels == 9 for _, labels in drawn[name]]) for name in drawn}
    assert people['crowd'] > 3 * people['clear']


def test_night_has_lights_and_daylight_has_none():
    street = _Street(np.random.default_rng(1), (160, 160), 'night')
    street.draw()
    assert street.canvas.emission.max() > 0.5
    street = _Street(np.random.default_rng(1), (160, 160), 'clear')
    street.draw()
    assert street.canvas.emission.max() == 0


def test_labels_agree_with_the_depth_painted_beside_them():
    for seed in range(12):
        street = _Street(np.random.default_rng(seed), (96, 96), 'clear')
        street.draw()
        assert ((street.canvas.labels == SKY) == (street.canvas.depth > 1000)).all()


def test_one_stroke_sets_colour_label_depth_and_light_of_the_same_pixels():
    generator = np.random.default_rng(0)
    canvas = Canvas(40, 30)
    canvas.polygon(np.array([(0, 0), (40, 0), (40, 30), (0, 30)]), (0, 0, 0), 0, 0.0)
    for label in range(1, 200):
        points = generator.uniform(-20, 60, size=(int(generator.integers(3, 8)), 2))
        value = label / 256
        depth = value if label % 2 else np.full((30, 40), value)
        canvas.polygon(points, (value,) * 3, label, depth, emission=(value,) * 3)
    expected = canvas.labels.astype(np.float32) / 256
    assert len(np.unique(expected)) > 5
    assert (canvas.image == expected[..., None]).all()
    assert (canvas.emission == expected[..., None]).all()
    assert (canvas.depth == expected).all()


def test_transparent_strokes_cover_the_same_pixels_as_opaque_ones():
    generator = np.random.default_rng(1)
    for _ in range(100):
        points = generator.uniform(-20, 60, size=(5, 2))
        opaque, transparent = Canvas(40, 30), Canvas(40, 30)
        opaque.polygon(points, (1, 1, 1))
        transparent.polygon(points, (1, 1, 1), opacity=0.5)
        assert (transparent.image == 0.5 * opaque.image).all()
        assert (transparent.labels == 255).all()


@pytest.mark.parametrize(
    'size', [(16, 160), (160, 31), (160,), (1, 2, 3), 160, (64.5, 64), ('a', 'b')]
)
def test_bad_size_is_refused(size):
    with pytest.raises(ValueError, match='Expected argument `size` to be .*at least 32, but got'):
        draw_scene(np.random.default_rng(0), size=size)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="`condition` to be one of .*'night'.*got 'eclipse'"):
        draw_scene(np.random.default_rng(0), condition='eclipse')
    with pytest.raises(ValueError, match="`split` to be one of .*got 'test'"):
        draw_indexed_scene('test', 0)


# ---- The long tail ---------------------------------------------------------------------------


def test_shares_are_a_long_tail():
    assert sum(CONDITION_SHARES.values()) == pytest.approx(1.0)
    rare = [share for share in CONDITION_SHARES.values() if share < 0.05]
    assert len(rare) == 7 and 0.10 < sum(rare) < 0.15


@pytest.mark.parametrize('offset', [0.0, 0.123, 0.7, 0.999])
def test_every_series_has_its_share_of_each_condition(offset):
    counts = Counter(condition_of(offset, index) for index in range(240))
    for name, share in CONDITION_SHARES.items():
        assert counts[name] == pytest.approx(240 * share, abs=3), name
        assert counts[name] >= 1


# ---- Files -----------------------------------------------------------------------------------


def test_files_are_byte_identical_and_say_what_they_are(tmp_path):
    assert prepare_street_scenes(tmp_path / 'a', SMALL)
    assert prepare_street_scenes(tmp_path / 'b', SMALL)
    contents = _contents(tmp_path / 'a')
    assert contents == _contents(tmp_path / 'b')
    assert len(contents) == 2 * (4 + 2) + 2
    record = json.loads(contents['street_scenes.json'])
    assert record['num_train'] == 4 and record['size'] == [48, 40] and record['seed'] == 3
    conditions = json.loads(contents['conditions.json'])
    images = [name for name in contents if name.endswith('.jpg')]
    assert sorted(conditions) == sorted(Path(name).name for name in images)
    assert set(conditions.values()) <= set(CONDITION_SHARES)


def test_files_hold_what_was_drawn_in_full_colour_resolution(tmp_path):
    prepare_street_scenes(tmp_path / 'set', SMALL)
    image, labels, condition = draw_indexed_scene('val', 1, (48, 40), 3)
    written = Image.open(tmp_path / 'set/images/val/val_00001.jpg')
    assert written.layer[0][1:3] == written.layer[1][1:3] == (1, 1)
    assert np.abs(np.array(written).astype(int) - image).mean() < 4
    stored = np.array(Image.open(tmp_path / 'set/annotations/val/val_00001.png'))
    assert (stored == labels).all()
    conditions = json.loads((tmp_path / 'set/conditions.json').read_text())
    assert conditions['val_00001.jpg'] == condition


def test_complete_set_is_not_drawn_again(tmp_path, monkeypatch):
    prepare_street_scenes(tmp_path / 'set', SMALL)

    def refuse(*args):
        raise AssertionError('drawn again')

    monkeypatch.setattr(files, 'draw_indexed_scene', refuse)
    assert not prepare_street_scenes(tmp_path / 'set', SMALL)


def test_empty_folder_and_link_to_one_are_filled(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'empty')
    assert prepare_street_scenes(tmp_path / 'link', SMALL)
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'empty/street_scenes.json').is_file()


def test_folder_is_as_open_as_any_other(tmp_path):
    prepare_street_scenes(tmp_path / 'set', SMALL)
    (tmp_path / 'plain').mkdir()
    assert (tmp_path / 'set').stat().st_mode == (tmp_path / 'plain').stat().st_mode


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_interrupted_drawing_leaves_nothing(tmp_path, error):
    def interrupt(drawn, total):
        if drawn == 3:
            raise error('interrupted')

    with pytest.raises(error, match='interrupted'):
        prepare_street_scenes(tmp_path / 'set', SMALL, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert prepare_street_scenes(tmp_path / 'set', SMALL)


# Bare packages stand in for the real ones, whose import of MMSegmentation takes seconds.
CHILD = """
import os, sys, time, types
from pathlib import Path
for package in ('mmpfb.datasets', 'mmpfb.datasets.street_scenes'):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [package.replace('.', '/')]
from mmpfb.datasets.street_scenes.files import StreetScenesParameters, prepare_street_scenes
root, name, others = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
def progress(drawn, total):
    if name == 'killed' and drawn == 3:
        os._exit(9)
    if drawn == total:
        (root / f'{name}.ready').touch()
        limit = time.monotonic() + 120
        while not all((root / f'{other}.ready').exists() for other in others):
            if time.monotonic() > limit:
                sys.exit('waited too long')
            time.sleep(0.01)
parameters = StreetScenesParameters(num_train=4, num_val=2, size=(48, 40), seed=3)
print(prepare_street_scenes(root / 'set', parameters, progress))
"""


def _start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', CHILD, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY), 'OMP_NUM_THREADS': '1'},
    )


def test_killed_process_leaves_no_half_set(tmp_path):
    child = _start(tmp_path, 'killed')
    assert child.wait(120) == 9
    assert not (tmp_path / 'set').exists()
    assert prepare_street_scenes(tmp_path / 'set', SMALL)


def test_two_processes_may_start_at_once(tmp_path):
    # Each waits until the other has drawn all images, so both try to put theirs in place.
    children = [_start(tmp_path, 'one', 'two'), _start(tmp_path, 'two', 'one')]
    outputs = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sorted(output.split()[-1] for output, _ in outputs) == ['False', 'True']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['one.ready', 'set', 'two.ready']
    assert not prepare_street_scenes(tmp_path / 'set', SMALL)


@pytest.mark.parametrize(
    'change', [dict(num_train=5), dict(num_val=3), dict(size=(40, 48)), dict(seed=4)]
)
def test_other_parameters_are_an_error(tmp_path, change):
    prepare_street_scenes(tmp_path / 'set', SMALL)
    before = _contents(tmp_path)
    other = StreetScenesParameters(**{**SMALL_KEYWORDS, **change})
    with pytest.raises(ValueError, match='were drawn with .*Choose another `data_root`, or delete'):
        prepare_street_scenes(tmp_path / 'set', other)
    assert _contents(tmp_path) == before


def test_set_of_another_version_of_the_drawing_is_an_error(tmp_path, monkeypatch):
    prepare_street_scenes(tmp_path / 'set', SMALL)
    monkeypatch.setattr(files, '_DRAWING_VERSION', 0)
    with pytest.raises(ValueError, match='drawing_version'):
        prepare_street_scenes(tmp_path / 'set', SMALL)


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds other files and no street_scenes.json'):
        prepare_street_scenes(tmp_path, SMALL)
    assert _contents(tmp_path) == {'notes.txt': b'mine'}


def test_damaged_set_is_an_error(tmp_path):
    prepare_street_scenes(tmp_path / 'set', SMALL)
    (tmp_path / 'set/annotations/train/train_00002.png').unlink()
    with pytest.raises(ValueError, match=r'Expected 4 files \*\.png in .*but found 3.*delete'):
        prepare_street_scenes(tmp_path / 'set', SMALL)
    (tmp_path / 'set/street_scenes.json').write_text('{')
    with pytest.raises(ValueError, match='is not valid JSON'):
        prepare_street_scenes(tmp_path / 'set', SMALL)


@pytest.mark.parametrize(
    ('name', 'value', 'least'),
    [('num_train', 0, 1), ('num_val', -1, 1), ('num_val', 2.5, 1), ('seed', -1, 0)]
    + [('num_train', True, 1)],
)
def test_numbers_out_of_range_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f'`{name}` to be an integer of at least {least}, but got'):
        StreetScenesParameters(**{name: value})


def test_label_encoding_failure_is_not_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(files.cv2, 'imencode', lambda *args: (False, None))
    with pytest.raises(OSError, match='could not be encoded as PNG'):
        prepare_street_scenes(tmp_path / 'set', SMALL)
    assert list(tmp_path.iterdir()) == []


# ---- Data set --------------------------------------------------------------------------------


def test_data_set_draws_itself_and_is_read_like_camvid(tmp_path):
    for split, number in (('train', 4), ('val', 2)):
        dataset = ROOT_DATASETS.build(
            dict(
                type='mmpfb.StreetScenesDataset',
                data_root=str(tmp_path / 'deep/set'),
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
                # A configuration file may hold a list.
                **{**SMALL_KEYWORDS, 'size': [48, 40]},
            )
        )
        assert isinstance(dataset, CamVidDataset)
        assert dataset.metainfo['classes'] == CamVidDataset.METAINFO['classes']
        assert len(dataset) == number
        sample = dataset[1]
        image, labels, _ = draw_indexed_scene(split, 1, (48, 40), 3)
        assert (sample['gt_seg_map'] == labels).all()
        # The loader gives blue first.
        assert np.abs(sample['img'][..., ::-1].astype(int) - image).mean() < 4


def test_lazy_data_set_draws_when_it_is_needed(tmp_path):
    dataset = StreetScenesDataset(
        str(tmp_path / 'set'), data_prefix=PREFIX, lazy_init=True, **SMALL_KEYWORDS
    )
    assert not (tmp_path / 'set').exists()
    dataset.full_init()
    assert len(dataset) == 4


def test_data_set_refuses_bad_arguments(tmp_path):
    for missing in (None, ''):
        with pytest.raises(ValueError, match='`data_root` to be the path of a folder, but got'):
            StreetScenesDataset(missing)
    with pytest.raises(ValueError, match='`seed` to be an integer'):
        StreetScenesDataset(str(tmp_path / 'set'), seed='one')
    with pytest.raises(FileNotFoundError, match="images/test' does not exist"):
        StreetScenesDataset(
            str(tmp_path / 'set'), data_prefix=dict(img_path='images/test'), **SMALL_KEYWORDS
        )


# ---- Command line ----------------------------------------------------------------------------


def test_command_draws_reports_and_refuses(tmp_path, capsys):
    options = [str(tmp_path / 'set'), '--num-train', '4', '--num-val', '2', '--size', '48', '40']
    assert main([*options, '--seed', '3']) == 0
    printed = capsys.readouterr().out
    assert '6/6 images' in printed and 'Drawn to' in printed
    assert not prepare_street_scenes(tmp_path / 'set', SMALL)
    assert main([*options, '--seed', '3']) == 0
    assert 'Already complete' in capsys.readouterr().out
    assert main([*options, '--seed', '4']) == 1
    assert 'Choose another `data_root`' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, '--speed', '4'])


def test_module_runs_without_a_warning(tmp_path):
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, '-W', 'error::RuntimeWarning', '-m', 'mmpfb.datasets.street_scenes', '-h'],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert result.returncode == 0, (result.stderr, time.monotonic() - started)
    assert '--num-train' in result.stdout
