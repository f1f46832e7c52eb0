_base_ = './deeplabv3_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(
    type='mmpfb.PFBEncoderDecoder',
    pruning=dict(selector=dict(type='PFB'), ratio=0.3, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=0.05, end=0.9, by='fraction'),
)
