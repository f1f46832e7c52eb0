import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpfb.datasets import CamVidDataset

SCRIPT = Path(__file__).resolve().parents[2] / 'tools/dataset_converters/camvid.py'
SPECIFICATION = importlib.util.spec_from_file_location('camvid_converter', SCRIPT)
converter = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(converter)

FRAMES = {
    '0001TP_008520': 'train',
    '0001TP_008550': 'test',
    '0006R0_f00930': 'train',
    '0016E5_07920': 'train',
    '0016E5_07959': 'val',
    '0016E5_08159': 'val',
    '0016E5_08190': 'train',
    'Seq05VD_f00000': 'test',
}
# One row of label pixels: colour of the release and the class it belongs to.
ROW = [
    ((128, 128, 128), 0),
    ((64, 192, 0), 1),
    ((192, 192, 128), 2),
    ((128, 0, 192), 3),
    ((0, 0, 192), 4),
    ((192, 192, 0), 5),
    ((0, 64, 64), 6),
    ((64, 64, 128), 7),
    ((192, 128, 192), 8),
    ((192, 128, 64), 9),
    ((192, 0, 192), 10),
    ((0, 0, 0), 255),
    ((1, 2, 3), 255),
]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / 'raw'
    (folder / '701_StillsRaw_full').mkdir(parents=True)
    (folder / 'LabeledApproved_full').mkdir()
    colours = np.array([[colour for colour, _ in ROW]] * 8, dtype=np.uint8)
    for grey, name in enumerate(FRAMES):
        image = np.full_like(colours, 20 * (grey + 1))
        Image.fromarray(image).save(folder / '701_StillsRaw_full' / f'{name}.png')
        Image.fromarray(colours).save(folder / 'LabeledApproved_full' / f'{name}_L.png')
    return folder


def test_release_converts_to_a_readable_data_set(raw, tmp_path, capsys):
    out = tmp_path / 'out'
    assert converter.main([str(raw), str(out)]) == 0
    printed = capsys.readouterr().out
    assert '8/8 frames' in printed
    assert 'train: 4, val: 2, test: 2' in printed
    assert f'{8 * len(FRAMES)} pixels have a colour of no class' in printed
    for name, split in FRAMES.items():
        assert (out / 'images' / split / f'{name}.jpg').is_file()
    dataset = CamVidDataset(
        data_root=str(out),
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    sample = dataset[0]
    assert sample['gt_seg_map'].tolist() == [[label for _, label in ROW]] * 8
    assert abs(float(sample['img'].mean()) - 20 * 5) < 2


def test_colours_cover_the_31_named_classes_once():
    assert len(converter.COLOURS) == len(converter.CLASS_OF_NAME) == 31
    assert set(converter.COLOURS.values()) == set(range(11))


def test_usual_division_of_the_release():
    # Frame numbers of the release: 124, 101, 204 at 1 Hz and 101 at 15 Hz, and 171.
    names = [f'0001TP_{number:06d}' for number in range(6690, 6690 + 30 * 124, 30)]
    names += [f'0006R0_f{number:05d}' for number in range(930, 930 + 30 * 101, 30)]
    names += [f'0016E5_{number:05d}' for number in range(7959, 8160, 2)]
    names += [f'Seq05VD_f{number:05d}' for number in range(0, 30 * 171, 30)]
    splits = [converter.split_of(name) for name in names]
    assert {split: splits.count(split) for split in converter.SPLITS} == {
        'train': 62 + 101,
        'val': 101,
        'test': 62 + 171,
    }
    assert converter.split_of('0016E5_00390') == 'train'


@pytest.mark.parametrize('name', ['holiday_00001', '0001TP_photo', '0006R0'])
def test_names_outside_the_release_have_no_split(name):
    assert converter.split_of(name) is None


def test_resizing_keeps_class_ids_whole(raw, tmp_path):
    out = tmp_path / 'out'
    assert converter.main([str(raw), str(out), '--size', '31', '17']) == 0
    labels = np.array(Image.open(out / 'annotations/val/0016E5_07959.png'))
    assert labels.shape == (17, 31)
    assert set(np.unique(labels)) == {*range(11), 255}
    assert Image.open(out / 'images/val/0016E5_07959.jpg').size == (31, 17)


def test_split_lists_override_the_rule(raw, tmp_path):
    lists = tmp_path / 'lists'
    lists.mkdir()
    (lists / 'train.txt').write_text('Seq05VD_f00000.png\n701/0016E5_07959\n')
    (lists / 'val.txt').write_text('0001TP_008520\n')
    out = tmp_path / 'out'
    assert converter.main([str(raw), str(out), '--split-dir', str(lists)]) == 0
    written = sorted(str(path.relative_to(out / 'images')) for path in out.glob('images/*/*.jpg'))
    assert written == [
        'train/0016E5_07959.jpg',
        'train/Seq05VD_f00000.jpg',
        'val/0001TP_008520.jpg',
    ]


def test_colour_file_of_the_release_is_used(raw, tmp_path):
    (raw / 'label_colors.txt').write_text('1 2 3\tBicyclist\n0 0 0\t\tVoid\n\n')
    _, unknown = converter.convert(raw, tmp_path / 'out')
    labels = np.array(Image.open(tmp_path / 'out/annotations/val/0016E5_07959.png'))
    assert labels[0].tolist() == [255] * 12 + [10]
    assert unknown == 11 * 8 * len(FRAMES)


@pytest.mark.parametrize('line', ['1 2 Sky', '1 2 3 Spaceship', 'a b c Sky'])
def test_unreadable_colour_file_is_refused(raw, tmp_path, line):
    (raw / 'label_colors.txt').write_text(line)
    with pytest.raises(ValueError, match=f'red green blue class.*got {line!r}'):
        converter.convert(raw, tmp_path / 'out')


@pytest.mark.parametrize('folder', ['701_StillsRaw_full', 'LabeledApproved_full'])
def test_missing_folder_is_named(raw, tmp_path, folder, capsys):
    (raw / folder).rename(raw / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=f"{folder}' does not exist"):
        converter.convert(raw, tmp_path / 'out')
    assert converter.main([str(raw), str(tmp_path / 'out')]) == 1
    assert f'{folder}' in capsys.readouterr().err


def test_folder_without_frames_is_refused(raw, tmp_path):
    for path in (raw / '701_StillsRaw_full').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'holds no \*\.png'):
        converter.convert(raw, tmp_path / 'out')


def test_missing_label_is_named_before_anything_is_written(raw, tmp_path):
    (raw / 'LabeledApproved_full/Seq05VD_f00000_L.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 label images are missing.*Seq05VD_f00000_L'):
        converter.convert(raw, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_unknown_frame_name_is_refused(raw, tmp_path):
    frame = raw / '701_StillsRaw_full/Seq05VD_f00000.png'
    frame.rename(frame.with_name('holiday.png'))
    with pytest.raises(ValueError, match=r"got 'holiday'.*--split-dir"):
        converter.convert(raw, tmp_path / 'out')


def test_bad_images_are_refused(raw, tmp_path):
    label = raw / 'LabeledApproved_full/0001TP_008520_L.png'
    Image.new('RGB', (4, 4)).save(label)
    with pytest.raises(ValueError, match=r'one size, but got \(13, 8\) and \(4, 4\)'):
        converter.convert(raw, tmp_path / 'out')
    label.write_bytes(b'no image')
    with pytest.raises(ValueError, match='to be an image, but it cannot be read'):
        converter.convert(raw, tmp_path / 'out')


def test_bad_split_lists_are_refused(raw, tmp_path):
    lists = tmp_path / 'lists'
    lists.mkdir()
    with pytest.raises(FileNotFoundError, match='holds none of them'):
        converter.read_split_lists(lists)
    (lists / 'train.txt').write_text('0001TP_008520\n')
    (lists / 'val.txt').write_text('0001TP_008520\n')
    with pytest.raises(ValueError, match='stands in train and in val'):
        converter.read_split_lists(lists)
    (lists / 'val.txt').write_text('0001TP_000000\n')
    with pytest.raises(FileNotFoundError, match='1 frames of the lists are not in'):
        converter.convert(raw, tmp_path / 'out', lists)


@pytest.mark.parametrize('extra', [['--sice', '4', '4'], ['--size', '0', '4'], ['--size', '4']])
def test_bad_options_are_refused(raw, tmp_path, extra, capsys):
    with pytest.raises(SystemExit) as caught:
        converter.main([str(raw), str(tmp_path / 'out'), *extra])
    assert caught.value.code == 2
    assert extra[0] in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
