_base_ = './deeplabv3_r50-d8_4xb4-36k_voc12aug-512x512.py'
model = dict(
    type='mmpfb.PFBEncoderDecoder',
    pruning=dict(selector=dict(type='PFB'), ratio=0.7, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=0.05, end=0.9, by='fraction'),
)
