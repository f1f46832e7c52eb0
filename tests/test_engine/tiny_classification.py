"""A real runner on a tiny classifier and random images, ready in a second."""

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

SIDE = 16
NUM_CLASSES = 3


@DATASETS.register_module(force=True)
class TinyObjects(BaseDataset):
    """Random images whose class follows from their brightness."""

    def __init__(self, length=24, **kwargs):
        self.length = length
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        return [{'img_path': f'image{index}.png', 'number': index} for index in range(self.length)]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        number = info['number']
        generator = torch.Generator().manual_seed(number)
        image = torch.rand(3, SIDE, SIDE, generator=generator) + number % NUM_CLASSES
        sample = DataSample(metainfo={'img_path': info['img_path'], 'sample_idx': number})
        return {'inputs': image, 'data_samples': sample.set_gt_label(number % NUM_CLASSES)}


def config(work_dir, *, max_epochs=4, batch_size=6, pruning=None, hook=None):
    """Return the configuration of a run; ``pruning=False`` makes it the stock model's."""
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=NUM_CLASSES,
            in_channels=32,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        ),
    )
    hooks = dict(
        logger=dict(type='LoggerHook', interval=2),
        checkpoint=dict(type='CheckpointHook', interval=1),
    )
    if pruning is not False:
        model['type'] = 'mmpfb.PFBImageClassifier'
        model['pruning'] = dict(
            dict(selector=dict(type='PFB', num_centroids=8), ratio=0.5), **(pruning or {})
        )
        hooks['pruning'] = dict(
            dict(type='mmpfb.PruningScheduleHook', begin=1, end=3, by='epoch'), **(hook or {})
        )
    return Config(
        dict(
            model=model,
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3, num_classes=NUM_CLASSES),
            train_dataloader=dict(
                batch_size=batch_size, num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='TinyObjects'),
            ),
            val_dataloader=dict(
                batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'), dataset=dict(type='TinyObjects'),
            ),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1),
            val_cfg=dict(type='ValLoop'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
            ),
            param_scheduler=dict(
                type='OneCycleLR', eta_max=0.05, total_steps=max_epochs, by_epoch=True,
                convert_to_iter_based=True,
            ),
            default_hooks=hooks,
            default_scope='mmpretrain',
            randomness=dict(seed=1),
            work_dir=str(work_dir),
        )
    )


def run(work_dir, change=None, **settings):
    """Train and return the runner; ``change`` is called with the configuration first."""
    cfg = config(work_dir, **settings)
    if change is not None:
        change(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner
