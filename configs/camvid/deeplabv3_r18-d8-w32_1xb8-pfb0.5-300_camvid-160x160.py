_base_ = './deeplabv3_r18-d8-w32_1xb8-300_camvid-160x160.py'
model = dict(
    type='mmpfb.PFBEncoderDecoder',
    pruning=dict(selector=dict(type='PFB'), ratio=0.5, location='auto', mode='reuse'),
)
default_hooks = dict(
    pruning=dict(type='mmpfb.PruningScheduleHook', begin=0.05, end=0.9, by='fraction'),
    retention=dict(type='mmpfb.RetentionRecordHook'),
)
