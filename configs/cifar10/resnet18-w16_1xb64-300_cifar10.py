_base_ = [
    '../_base_/models/resnet18-w16_cifar.py',
    '../_base_/datasets/cifar10_10k.py',
    '../_base_/schedules/classification_300.py',
    '../_base_/default_runtime_classification.py',
]
train_dataloader = dict(batch_size=64, sampler=dict(type='InfiniteSampler', shuffle=True))
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=300, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
