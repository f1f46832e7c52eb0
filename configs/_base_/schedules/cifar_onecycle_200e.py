optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='OneCycleLR', eta_max=0.1, total_steps=200, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=10)
