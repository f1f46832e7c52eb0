_base_ = [
    '../_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_onecycle_200e.py',
    '../_base_/long_runtime_classification.py',
]
