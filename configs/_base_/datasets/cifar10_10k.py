_base_ = './cifar10.py'
train_dataloader = dict(num_workers=1, dataset=dict(images_per_class=1000))
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader
