"""What `make demo` runs, and what it refuses before anything is installed or trained."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='needs make')


def make(*arguments: str) -> subprocess.CompletedProcess:
    # Those of a `make test` around this process must not reach the one inside.
    hidden = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'DATA', 'RATIO', 'ITERS')
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


@pytest.mark.parametrize('with_data', [False, True])
def test_demo_options_name_settings_of_its_config(with_data: bool):
    config, options = read_demo(*(['DATA=/a folder/camvid'] if with_data else []), 'ITERS=100')

    settings = dict(option.split('=', 1) for option in options)
    for key in settings:
        value = config._cfg_dict
        for part in key.split('.'):
            value = value[int(part)] if part.isdigit() else value[part]
    assert settings['train_cfg.max_iters'] == '100'
    assert settings['param_scheduler.1.end'] == '100'
    assert config.param_scheduler[1].type == 'PolyLR'
    assert 'retention' in config.default_hooks
    dataset = config.train_dataloader.dataset.type
    if with_data:
        assert dataset == 'mmpfb.CamVidDataset'
        assert settings['train_dataloader.dataset.data_root'] == '/a folder/camvid'
        assert settings['val_dataloader.dataset.data_root'] == '/a folder/camvid'
    else:
        assert dataset == 'mmpfb.StreetScenesDataset'
        assert 'train_dataloader.dataset.data_root' not in settings


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('DATA=/no/such/folder', 'found none in /no/such/folder/images/train'),
        ('RATIO=1.0', 'Expected RATIO to be in [0, 1), but got "1.0".'),
        ('RATIO=half', 'Expected RATIO to be in [0, 1), but got "half".'),
        ('ITERS=10', 'Expected ITERS to be at least 60, but got 10.'),
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


def test_help_lists_the_targets():
    done = make()

    assert done.returncode == 0
    for target in ('demo', 'test', 'test-fast', 'lint', 'clean'):
        assert f'make {target} ' in done.stdout


def test_continuous_integration_runs_make_test():
    script = ROOT / '.ci' / 'run'

    assert os.access(script, os.X_OK)
    assert 'make test' in script.read_text()
