"""A tiny run in which much is random: dropout, augmentation by NumPy and Python, the choice."""

import random

import numpy as np
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS

from .tiny_run import TinyScenes, config

# Upstream's loop loads all images of the past again when it resumes, and draws for them.
REPEATS_AUGMENTATION = hasattr(InfiniteSampler, 'skip')


@DATASETS.register_module(force=True)
class NoisyScenes(TinyScenes):
    def prepare_data(self, idx):
        data = super().prepare_data(idx)
        data['inputs'] = data['inputs'] + np.random.rand() * random.random()
        return data


def resumable_config(work_dir, *, interval=1, max_keep_ckpts=2, resume=False, **settings):
    cfg = config(work_dir, **settings)
    if REPEATS_AUGMENTATION:
        cfg.train_dataloader.dataset.type = 'NoisyScenes'
    cfg.model.decode_head.dropout_ratio = 0.3
    cfg.default_hooks.checkpoint = dict(
        type='mmpfb.ResumableCheckpointHook',
        by_epoch=settings.get('by_epoch', False),
        interval=interval,
        max_keep_ckpts=max_keep_ckpts,
    )
    cfg.resume = resume
    # Two runs of one process must not share MMEngine's log.
    cfg.experiment_name = f'{work_dir}-{resume}'.replace('/', '-')
    return cfg
