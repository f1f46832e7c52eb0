"""Ways in which one of several processes comes to its end; imported by a configuration."""

import os
import signal
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from tests.test_engine.tiny_run import TinyScenes

RANK, ITERATION = 1, 5


@DATASETS.register_module(force=True)
class BrokenScenes(TinyScenes):
    """Holds an image that the second rank cannot read."""

    def prepare_data(self, idx):
        if get_rank() == RANK and idx == 7:
            Path('died').write_text(str(time.time()))
            raise OSError('a broken image')
        return super().prepare_data(idx)


@HOOKS.register_module(force=True)
class DyingHook(Hook):
    """Ends or halts the second rank in the middle of a step of the others."""

    def __init__(self, how):
        self.how = how

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() != RANK or runner.iter != ITERATION:
            return
        Path('died').write_text(str(time.time()))
        if self.how == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == 'hangs':
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(3)
