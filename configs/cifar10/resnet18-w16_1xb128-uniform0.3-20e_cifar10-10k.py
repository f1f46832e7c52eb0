_base_ = './resnet18-w16_1xb128-20e_cifar10-10k.py'
model = dict(
    type='mmpfb.PFBImageClassifier',
    pruning=dict(selector=dict(type='Uniform'), ratio=0.3, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=0.05, end=0.9, by='fraction'),
)
