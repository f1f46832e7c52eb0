_base_ = './cifar_onecycle_200e.py'
param_scheduler = dict(total_steps=20)
train_cfg = dict(max_epochs=20, val_interval=5)
