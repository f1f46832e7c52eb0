"""A real runner on images that are numbers and a model whose loss tells them; ready at once."""

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn


@DATASETS.register_module(force=True)
class Numbers(BaseDataset):
    """Images that hold nothing but their number."""

    def __init__(self, length=20, first=0, has_paths=True, **kwargs):
        self.length, self.first, self.has_paths = length, first, has_paths
        super().__init__(**kwargs)

    def load_data_list(self):
        return [
            {'number': self.first + i, **({'img_path': f'{self.first + i}.png'}
                                          if self.has_paths else {})}
            for i in range(self.length)
        ]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        names = {key: info[key] for key in ('img_path', 'sample_idx') if key in info}
        sample = BaseDataElement(metainfo={**names, 'number': info['number']})
        return {'inputs': torch.full((1,), float(info['number'])), 'data_samples': sample}


class Mean(nn.Module):
    def forward(self, numbers):
        return numbers.mean()


class Sum(nn.Module):
    def forward(self, numbers):
        return numbers.sum()


@MODELS.register_module(force=True)
class NumbersModel(BaseModel):
    """The loss of image ``n`` is ``n * factor``; ``hidden`` is a loss that no module computes."""

    def __init__(self, reduction='mean', hidden=0.0, fails_at=None, name='loss'):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.loss_module = Mean() if reduction == 'mean' else Sum()
        self.hidden, self.fails_at, self.name, self.steps = hidden, fails_at, name, 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError('out of memory')
        losses = torch.stack(list(inputs)).flatten() * self.factor
        found = {self.name: self.loss_module(losses)}
        if self.hidden:
            found['loss_hidden'] = self.hidden * losses.mean()
        return found


class Recorder(Hook):
    """Notes the images and the objective of every iteration; may stop the run after some."""

    priority = 'LOWEST'

    def __init__(self, stop_after=None):
        self.images, self.objectives, self.stop_after = [], [], stop_after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images.append([s.metainfo['number'] for s in data_batch['data_samples']])
        self.objectives.append(outputs['loss'].item())
        if runner.iter + 1 == self.stop_after:
            raise KeyboardInterrupt


def config(
    work_dir, sampler='InfoBatch', *, length=3, by_epoch=True, infinite=None, batch_size=3,
    num_workers=0, model=None, dataset=None, hook=None, lr=0.0, loop=None, **settings
):
    loop = loop or {}
    hooks = dict(
        logger=dict(type='LoggerHook', interval=1000),
        checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1),
    )
    if hook is not False:
        hooks['image_losses'] = dict(type='mmpfb.ImageLossesHook', **(hook or {}))
    kind = dict(type='EpochBasedTrainLoop', max_epochs=length) if by_epoch else dict(
        type='IterBasedTrainLoop', max_iters=length
    )
    return Config(
        dict(
            model=dict(dict(type='NumbersModel'), **(model or {})),
            train_dataloader=dict(
                batch_size=batch_size, num_workers=num_workers,
                persistent_workers=num_workers > 0,
                sampler=dict(
                    type=f'mmpfb.{sampler}',
                    infinite=not by_epoch if infinite is None else infinite, **settings,
                ),
                dataset=dataset or dict(type='Numbers'),
            ),
            train_cfg=dict(kind, **loop),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
            default_hooks=hooks,
            log_processor=dict(by_epoch=by_epoch),
            randomness=dict(seed=1),
            work_dir=str(work_dir),
            log_level='INFO',
        )
    )


def run(cfg, stop_after=None):
    """Train and return runner and recorder; a run that stops itself is no error."""
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(stop_after)
    runner.register_hook(recorder)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop_after == runner.iter + 1
    runner.visualizer.close()
    return runner, recorder
