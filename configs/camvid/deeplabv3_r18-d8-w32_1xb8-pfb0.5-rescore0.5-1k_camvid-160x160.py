_base_ = './deeplabv3_r18-d8-w32_1xb8-pfb0.5-1k_camvid-160x160.py'
model = dict(pruning=dict(mode='rescore', score_scale=0.5))
