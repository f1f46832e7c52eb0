_base_ = './default_runtime_classification.py'
# Runs of hours and days: they survive being killed at any moment.
default_hooks = dict(checkpoint=dict(type='mmpfb.ResumableCheckpointHook', max_keep_ckpts=2))
