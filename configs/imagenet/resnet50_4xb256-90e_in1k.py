_base_ = [
    '../_base_/models/resnet50_classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_lars_90e.py',
    '../_base_/long_runtime_classification.py',
]
default_hooks = dict(checkpoint=dict(interval=5))
