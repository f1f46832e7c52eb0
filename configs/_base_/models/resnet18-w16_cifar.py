# A quarter of the width: 35 million multiply-adds for an image of 32x32, made for a CPU.
_base_ = './resnet18_cifar.py'
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(in_channels=128),
)
