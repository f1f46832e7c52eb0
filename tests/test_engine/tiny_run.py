"""A real runner on a tiny segmentor and random images, ready in a second."""

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

SIDE = 32
NUM_CLASSES = 3


@DATASETS.register_module(force=True)
class TinyScenes(BaseDataset):
    """Random images whose labels follow from their brightness."""

    def __init__(self, length=24, **kwargs):
        self.length = length
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        return [{'img_path': f'image{index}.png', 'number': index} for index in range(self.length)]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        generator = torch.Generator().manual_seed(info['number'])
        image = torch.rand(3, SIDE, SIDE, generator=generator) * (1 + info['number'] % 5)
        labels = (image.mean(0, keepdim=True)).long().clamp(max=NUM_CLASSES - 1)
        meta = {'img_path': info['img_path'], 'img_shape': (SIDE, SIDE), 'ori_shape': (SIDE, SIDE)}
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)
        return {'inputs': image, 'data_samples': sample}


@METRICS.register_module(force=True)
class TinyAccuracy(BaseMetric):
    """Share of pixels that are right."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            right = sample['pred_sem_seg']['data'] == sample['gt_sem_seg']['data']
            self.results.append(right.float().mean().item())

    def compute_metrics(self, results):
        return {'accuracy': sum(results) / len(results)}


def head(in_channels, in_index):
    return dict(
        type='FCNHead', in_channels=in_channels, in_index=in_index, channels=8, num_convs=1,
        concat_input=False, num_classes=NUM_CLASSES, norm_cfg=dict(type='BN'), dropout_ratio=0.0,
        align_corners=False, loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )


def config(work_dir, *, max_iters=20, batch_size=4, pruning=None, hook=None, by_epoch=False):
    """Return the configuration of a run.

    ``pruning`` and ``hook`` replace single settings; ``hook=False`` leaves the hook out and
    ``pruning=False`` makes it the stock model.
    """
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(SIDE, SIDE)),
        backbone=dict(
            type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3),
            strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=dict(type='BN'),
        ),
        decode_head=head(64, 3),
        auxiliary_head=head(32, 2),
        test_cfg=dict(mode='whole'),
    )
    if pruning is not False:
        model['type'] = 'mmpfb.PFBEncoderDecoder'
        model['pruning'] = dict(
            dict(selector=dict(type='PFB', num_centroids=8), ratio=0.5), **(pruning or {})
        )
    hooks = dict(
        logger=dict(type='LoggerHook', interval=5, log_metric_by_epoch=False),
        checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 5),
    )
    if hook is not False:
        hooks['pruning'] = dict(
            dict(type='mmpfb.PruningScheduleHook', begin=0.25, end=0.75), **(hook or {})
        )
    loop = (
        dict(type='EpochBasedTrainLoop', max_epochs=max_iters, val_interval=max_iters)
        if by_epoch
        else dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10)
    )
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    return Config(
        dict(
            model=model,
            train_dataloader=dict(
                batch_size=batch_size, num_workers=0,
                sampler=dict(type=sampler, shuffle=True),
                dataset=dict(type='TinyScenes'),
            ),
            val_dataloader=dict(
                batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(type='TinyScenes', length=2),
            ),
            val_evaluator=dict(type='TinyAccuracy'),
            train_cfg=loop,
            val_cfg=dict(type='ValLoop'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=hooks,
            default_scope='mmseg',
            log_processor=dict(by_epoch=by_epoch),
            randomness=dict(seed=1),
            work_dir=str(work_dir),
            log_level='INFO',
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
