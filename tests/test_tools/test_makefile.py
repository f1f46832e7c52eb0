"""What `make demo` runs, and what it refuses before anything is installed or trained."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmpfb.datasets import CIFAR10Dataset

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='needs make')


def make(*arguments: str) -> subprocess.CompletedProcess:
    # Those of a `make test` around this process must not reach the one inside.
    hidden = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'TASK', 'DATA', 'RATIO', 'ITERS')
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        ['make', '-C', ROOT, '--no-print-directory', *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def read_demo(*arguments: str) -> tuple[Config, list[str]]:
    """Return the config that `make demo` would train, and its options."""
    done = make('--dry-run', 'demo', *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = (
        line
        for line in done.stdout.replace('\\\n', ' ').splitlines()
        if 'tools/train.py' in line
    )
    words = shlex.split(line)
    options = words[words.index('--cfg-options') + 1 :]
    return Config.fromfile(ROOT / words[2]), options


@pytest.mark.parametrize(
    ('task', 'with_data', 'dataset'),
    [
        (None, False, 'mmpfb.StreetScenesDataset'),
        (None, True, 'mmpfb.CamVidDataset'),
        ('segmentation', False, 'mmpfb.StreetScenesDataset'),
        ('classification', False, 'mmpfb.StreetConditionsDataset'),
        ('classification', True, 'mmpfb.CIFAR10Dataset'),
    ],
)
def test_demo_options_name_settings_of_its_config(task: str, with_data: bool, dataset: str):
    config, options = read_demo(
        *([f'TASK={task}'] if task else []),
        *(['DATA=/a folder/images'] if with_data else []),
        'ITERS=100',
    )

    settings = dict(option.split('=', 1) for option in options)
    for key in settings:
        value = config._cfg_dict
        for part in key.split('.'):
            value = value[int(part)] if part.isdigit() else value[part]
    assert settings['train_cfg.max_iters'] == '100'
    assert settings['param_scheduler.1.end'] == '100'
    assert config.param_scheduler[1].type == 'PolyLR'
    assert config.train_cfg.type == 'IterBasedTrainLoop'
    assert 'retention' in config.default_hooks
    assert 'pruning' in config.default_hooks
    for split in ('train', 'val', 'test'):
        assert config[f'{split}_dataloader'].dataset.type == dataset
        data_root = settings.get(f'{split}_dataloader.dataset.data_root')
        assert data_root == ('/a folder/images' if with_data else None)


@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_demo_groups_are_those_of_the_drawn_images(task: str):
    config, _ = read_demo(f'TASK={task}')
    drawn = make('--dry-run', 'demo', f'TASK={task}').stdout
    given = make('--dry-run', 'demo', f'TASK={task}', 'DATA=/images').stdout

    data_root = config.train_dataloader.dataset.data_root
    assert f'--groups {data_root}/conditions.json' in drawn
    assert 'contact_sheet.py' in given and '--groups' not in given


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('DATA=/no/such/folder', 'found none in /no/such/folder/images/train'),
        ('RATIO=1.0', 'Expected RATIO to be in [0, 1), but got "1.0".'),
        ('RATIO=half', 'Expected RATIO to be in [0, 1), but got "half".'),
        ('ITERS=10', 'Expected ITERS to be at least 60, but got 10.'),
        ('TASK=detection',
         'Expected TASK to be segmentation or classification, but got "detection".'),
        ('ITERS=-5', 'Expected ITERS to be a whole number, but got "-5".'),
    ],
)
def test_demo_refuses_wrong_arguments_at_once(argument: str, message: str):
    done = make('demo', argument)

    assert done.returncode != 0
    assert message in done.stderr
    assert 'train.py' not in done.stdout
    assert 'pip' not in done.stdout


def test_demo_names_the_folder_that_lacks_images(tiny_camvid: Path, tmp_path: Path):
    copy = tmp_path / 'my camvid'
    shutil.copytree(tiny_camvid, copy)
    accepted = make('demo-arguments', f'DATA={copy}')
    for path in (copy / 'annotations' / 'val').iterdir():
        path.unlink()
    refused = make('demo-arguments', f'DATA={copy}')

    assert accepted.returncode == 0, accepted.stderr
    assert refused.returncode != 0
    assert f'annotations/val/*.png, but found none in {copy}/annotations/val' in refused.stderr


def check_data(task: str, folder: Path) -> subprocess.CompletedProcess:
    return make('demo-arguments', f'TASK={task}', f'DATA={folder}')


def test_demo_takes_cifar_in_both_layouts(tiny_cifar: Path, tmp_path: Path, write_cifar_pickles):
    images = np.zeros((5, 32, 32, 3), np.uint8), list(range(5))
    write_cifar_pickles(tmp_path / 'my pickles', CIFAR10Dataset, train=images, test=images)
    folders = shutil.copytree(tiny_cifar, tmp_path / 'my folders')

    for folder in (folders, tmp_path / 'my pickles'):
        done = check_data('classification', folder)
        assert done.returncode == 0, done.stderr


def test_demo_refuses_the_data_of_the_other_task(
    tiny_camvid: Path, tiny_cifar: Path, tmp_path: Path
):
    for folder in (tiny_camvid, tmp_path):
        done = check_data('classification', folder)
        assert done.returncode != 0
        assert 'Expected DATA to hold images train/*/* or cifar-10-batches-py/' in done.stderr
        assert f'found neither in {folder}.' in done.stderr
    done = check_data('segmentation', tiny_cifar)
    assert done.returncode != 0
    assert f'found none in {tiny_cifar}/images/train' in done.stderr


def test_demo_refuses_test_images_alone(tiny_cifar: Path, tmp_path: Path):
    # Training would download the official files into the folder.
    shutil.copytree(tiny_cifar / 'test', tmp_path / 'test')
    done = check_data('classification', tmp_path)
    assert done.returncode != 0
    assert 'images train/*/* or cifar-10-batches-py/data_batch_1, but found' in done.stderr


def test_help_lists_the_targets():
    done = make()

    assert done.returncode == 0
    for target in ('demo', 'test', 'test-fast', 'lint', 'clean'):
        assert f'make {target} ' in done.stdout


def test_continuous_integration_runs_make_test():
    script = ROOT / '.ci' / 'run'

    assert os.access(script, os.X_OK)
    assert 'make test' in script.read_text()
