"""The contact sheet, as a user starts it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmpfb.datasets import CIFAR10Dataset

ROOT = Path(__file__).resolve().parents[2]
CONTACT_SHEET = ROOT / 'tools/analysis_tools/contact_sheet.py'
CLASSIFIER = ROOT / 'configs/cifar10/resnet18-w16_1xb128-pfb0.5-20e_cifar10-10k.py'


@pytest.fixture
def call(monkeypatch):
    """Run a tool in this process."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name='__main__')

    return run


@pytest.fixture
def refused(call, capsys):
    """Run a tool in this process and return what it says before it exits with 2."""

    def run(script, *arguments):
        with pytest.raises(SystemExit) as caught:
            call(script, *arguments)
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )


@pytest.fixture
def work_dir(tmp_path):
    record = {}
    for index, colour in enumerate(['red', 'green', 'blue', 'white']):
        path = tmp_path / f'{colour}.png'
        Image.new('RGB', (32, 24), colour).save(path)
        record[str(path)] = {'seen': 10, 'kept': 3 * index}
    (tmp_path / 'retention.json').write_text(json.dumps(record))
    return tmp_path


def test_contact_sheet_shows_the_extremes(work_dir):
    result = run(CONTACT_SHEET, work_dir, '--count', 1)
    assert result.returncode == 0, result.stderr
    with Image.open(work_dir / 'contact_sheet.png') as sheet:
        colours = {pixel for _, pixel in sheet.convert('RGB').getcolors(maxcolors=2**24)}
        half = sheet.height // 2
        upper = sheet.convert('RGB').crop((0, 0, sheet.width, half)).getcolors(2**24)
        lower = sheet.convert('RGB').crop((0, half, sheet.width, sheet.height)).getcolors(2**24)
    red = (255, 0, 0)
    assert red in colours
    assert red in {pixel for _, pixel in lower}  # kept 0 of 10: among the pruned
    assert red not in {pixel for _, pixel in upper}
    assert (0, 0, 255) not in colours


def test_contact_sheet_without_a_record_names_the_hook(tmp_path, refused):
    message = refused(CONTACT_SHEET, tmp_path)
    assert 'retention.json to exist' in message
    assert 'mmpfb.RetentionRecordHook' in message


def test_contact_sheet_of_an_empty_record_is_refused(tmp_path, refused):
    (tmp_path / 'retention.json').write_text('{}')
    assert 'at least one image, but it holds none' in refused(CONTACT_SHEET, tmp_path)


def colours_of(picture):
    """Return the colours in the upper and in the lower half."""
    with Image.open(picture) as sheet:
        width, height = sheet.size
        return [
            {colour for _, colour in sheet.convert('RGB').crop(box).getcolors(2**24)}
            for box in ((0, 0, width, height // 2), (0, height // 2, width, height))
        ]


@pytest.fixture
def work_dir_of_numbers(tmp_path, write_cifar_pickles):
    """What a run on twelve pickled images of one colour each leaves: image 11 was kept most."""
    colours = [(20 * index, 250 - 20 * index, 17) for index in range(12)]
    images = np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (12, 32, 32, 3))
    labels = [index % 10 for index in range(12)]
    write_cifar_pickles(
        tmp_path / 'cifar10', CIFAR10Dataset, train=(images, labels), test=(images[::-1], labels)
    )
    config = Config.fromfile(CLASSIFIER)
    config.train_dataloader.dataset.update(
        data_root=str(tmp_path / 'cifar10'), images_per_class=None
    )
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    config.dump(work_dir / CLASSIFIER.name)
    record = {str(index): {'seen': 20, 'kept': index} for index in range(12)}
    (work_dir / 'retention.json').write_text(json.dumps(record))
    return work_dir, colours


def test_contact_sheet_finds_images_without_files_by_number(work_dir_of_numbers, call):
    work_dir, colours = work_dir_of_numbers
    call(CONTACT_SHEET, work_dir, '--count', 2)

    upper, lower = colours_of(work_dir / 'contact_sheet.png')
    assert [index for index, colour in enumerate(colours) if colour in upper] == [10, 11]
    assert [index for index, colour in enumerate(colours) if colour in lower] == [0, 1]


def test_numbers_are_those_of_the_newest_config(work_dir_of_numbers, call):
    work_dir, colours = work_dir_of_numbers
    # Left by an earlier run in the same folder.
    older = work_dir / 'zebra.py'
    older.write_text('train_dataloader = 3')
    os.utime(older, (0, 0))
    call(CONTACT_SHEET, work_dir, '--count', 2)
    upper, _ = colours_of(work_dir / 'contact_sheet.png')
    assert colours[11] in upper


def test_numbers_need_the_config_of_the_run(work_dir_of_numbers, refused):
    work_dir, _ = work_dir_of_numbers
    (work_dir / CLASSIFIER.name).unlink()
    assert 'of which there are 0' in refused(CONTACT_SHEET, work_dir)
    assert not (work_dir / 'contact_sheet.png').exists()


def test_numbers_of_a_wrapped_data_set_are_refused(work_dir_of_numbers, refused):
    work_dir, _ = work_dir_of_numbers
    config = Config.fromfile(work_dir / CLASSIFIER.name)
    config.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=config.train_dataloader.dataset
    )
    config.dump(work_dir / CLASSIFIER.name)
    assert 'RepeatDataset numbers them anew' in refused(CONTACT_SHEET, work_dir)


def test_contact_sheet_names_a_file_that_is_gone(work_dir, refused):
    (work_dir / 'red.png').unlink()
    # Even with the config of the run, which helps with numbers alone.
    Config.fromfile(CLASSIFIER).dump(work_dir / CLASSIFIER.name)
    assert f"name image files, but '{work_dir}/red.png' is none" in refused(CONTACT_SHEET, work_dir)
