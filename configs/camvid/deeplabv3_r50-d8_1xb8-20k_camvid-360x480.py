_base_ = [
    '../_base_/models/deeplabv3_r50-d8.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_20k.py',
    '../_base_/long_runtime.py',
]
crop_size = (360, 480)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
train_dataloader = dict(num_workers=4)
default_hooks = dict(checkpoint=dict(interval=2000))
