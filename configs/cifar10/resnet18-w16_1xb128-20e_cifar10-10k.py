_base_ = [
    '../_base_/models/resnet18-w16_cifar.py',
    '../_base_/datasets/cifar10_10k.py',
    '../_base_/schedules/cifar_onecycle_20e.py',
    '../_base_/default_runtime_classification.py',
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
