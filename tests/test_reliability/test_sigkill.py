"""A run that is killed again and again ends like one that never was."""

import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from tests.test_engine.resumable_run import resumable_config

ITERATIONS = 30


def train(folder):
    """Train with a checkpoint in every iteration, from the last one on if there is one."""
    torch.set_num_threads(1)
    resume = Path(folder, 'last_checkpoint').exists()
    cfg = resumable_config(folder, max_iters=ITERATIONS, resume=resume)
    cfg.experiment_name = f'run{time.time_ns()}'
    Runner.from_cfg(cfg).train()


def final_state(folder):
    return torch.load(Path(folder, f'iter_{ITERATIONS}.pth'), weights_only=False)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    # Forked from a process that has imported everything: a start takes no time.
    context = get_context('forkserver')
    context.set_forkserver_preload([__name__, 'mmpfb.engine', 'mmpfb.models', 'mmseg.models'])
    draw = random.Random(0)

    def start(folder):
        process = context.Process(target=train, args=(str(tmp_path / folder),))
        process.start()
        return process

    whole = start('whole')
    whole.join(300)
    assert whole.exitcode == 0

    kills, folder = 0, tmp_path / 'killed'
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        process = start('killed')
        before = Path(folder, 'last_checkpoint')
        reached = before.read_text() if before.exists() else None
        # Wait until this attempt has saved something, then strike at any moment of an iteration:
        # a good part of it is the writing of the checkpoint.
        while process.is_alive() and (before.read_text() if before.exists() else None) == reached:
            time.sleep(0.005)
        process.join(draw.uniform(0, 1.5))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        for path in folder.glob('*.pth'):
            torch.load(path, weights_only=False)
    assert process.exitcode == 0
    assert kills >= 3
    left, right = final_state(tmp_path / 'whole'), final_state(folder)
    for key, value in right['state_dict'].items():
        assert torch.equal(value, left['state_dict'][key]), key
    assert torch.equal(
        left['mmpfb']['selector']['centroids'], right['mmpfb']['selector']['centroids']
    )
    for state in (left, right):
        state['mmpfb'].pop('selector')
    assert left['mmpfb'] == right['mmpfb']
    print(f'killed {kills} times')
