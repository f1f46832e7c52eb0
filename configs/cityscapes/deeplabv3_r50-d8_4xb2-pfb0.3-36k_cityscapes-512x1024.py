_base_ = './deeplabv3_r50-d8_4xb2-36k_cityscapes-512x1024.py'
model = dict(
    type='mmpfb.PFBEncoderDecoder',
    pruning=dict(selector=dict(type='PFB'), ratio=0.3, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=0.05, end=0.9, by='fraction'),
)
