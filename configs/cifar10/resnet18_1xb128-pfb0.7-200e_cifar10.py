_base_ = './resnet18_1xb128-200e_cifar10.py'
model = dict(
    type='mmpfb.PFBImageClassifier',
    pruning=dict(selector=dict(type='PFB'), ratio=0.7, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=5, end=180, by='epoch'),
)
