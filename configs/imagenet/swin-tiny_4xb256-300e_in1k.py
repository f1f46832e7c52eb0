_base_ = [
    '../_base_/models/swin-tiny_classifier.py',
    '../_base_/datasets/imagenet_autoaugment.py',
    '../_base_/schedules/imagenet_adamw_300e.py',
    '../_base_/long_runtime_classification.py',
]
