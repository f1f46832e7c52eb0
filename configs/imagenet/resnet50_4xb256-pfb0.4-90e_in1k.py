_base_ = './resnet50_4xb256-90e_in1k.py'
model = dict(
    type='mmpfb.PFBImageClassifier',
    pruning=dict(
        selector=dict(type='PFB', random_bound=0.001),
        ratio=0.4,
        location='backbone.layer2',
        mode='reuse',
    ),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=15, end=80, by='epoch'),
)
