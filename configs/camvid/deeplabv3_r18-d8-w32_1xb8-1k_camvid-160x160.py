_base_ = [
    '../_base_/models/deeplabv3_r18-d8-w32.py',
    '../_base_/datasets/camvid_160.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
]
crop_size = (160, 160)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
)
