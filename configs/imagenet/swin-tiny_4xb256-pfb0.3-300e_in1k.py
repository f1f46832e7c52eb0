_base_ = './swin-tiny_4xb256-300e_in1k.py'
model = dict(
    type='mmpfb.PFBImageClassifier',
    pruning=dict(
        selector=dict(type='PFB', random_bound=0.001),
        ratio=0.3,
        location='backbone.stages.0',
        mode='reuse',
    ),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=50, end=267, by='epoch'),
)
