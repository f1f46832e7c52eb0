no_decay = dict(decay_mult=0, lars_exclude=True)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=6.4, momentum=0.9, weight_decay=5e-5),
    paramwise_cfg=dict(
        custom_keys={'bn': no_decay, 'bias': no_decay, 'downsample.1': no_decay}
    ),
)
# The learning rate rises for 5 of the 90 epochs.
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=6.4,
    total_steps=90,
    pct_start=5 / 90,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=90, val_interval=5)
auto_scale_lr = dict(base_batch_size=1024)
