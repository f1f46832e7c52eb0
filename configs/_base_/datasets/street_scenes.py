# Drawn at `data_root` on first use: nothing has to be downloaded.
_base_ = './camvid_160.py'
dataset_type = 'mmpfb.StreetScenesDataset'
data_root = 'data/street_scenes'
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
test_dataloader = val_dataloader
