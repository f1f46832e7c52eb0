optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
    clip_grad=None,
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=36000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=36000, val_interval=4000)
