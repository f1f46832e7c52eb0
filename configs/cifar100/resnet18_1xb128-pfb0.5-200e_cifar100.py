_base_ = './resnet18_1xb128-200e_cifar100.py'
model = dict(
    type='mmpfb.PFBImageClassifier',
    pruning=dict(selector=dict(type='PFB'), ratio=0.5, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=5, end=180, by='epoch'),
)
