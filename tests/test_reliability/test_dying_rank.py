"""When one process of several dies, all end with an error, and none waits for it for ever."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_engine.tiny_run import config

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize('how', ['killed', 'exits', 'hangs', 'broken image'])
def test_the_others_end_with_an_error(tmp_path, how):
    cfg = config(tmp_path / 'run', max_iters=10_000, hook=dict(begin=0.0, end=1.0))
    # Only a rank that hangs is noticed by it, in seconds.
    cfg.env_cfg = dict(dist_cfg=dict(timeout=15))
    cfg.custom_imports = dict(imports=['tests.test_reliability.dying'])
    if how == 'broken image':
        cfg.train_dataloader.dataset.type = 'BrokenScenes'
    else:
        cfg.custom_hooks = [dict(type='DyingHook', how=how)]
    cfg.dump(tmp_path / 'config.py')
    environment = {
        **os.environ,
        'PYTHON': sys.executable,
        'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
        'OMP_NUM_THREADS': '1',
        'PORT': str(free_port()),
    }
    started = subprocess.Popen(
        ['bash', str(ROOT / 'tools' / 'dist_train.sh'), str(tmp_path / 'config.py'), '2'],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=240)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode != 0
    lasted = time.time() - float((tmp_path / 'died').read_text())
    assert lasted < 90, lasted
    if how == 'broken image':
        assert 'OSError: a broken image' in output
    else:
        assert '[    5/10000]' in output
