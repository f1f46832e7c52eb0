"""The table of classifiers that the tests of cutting sweep: a new one joins by a row."""

from mmpretrain.registry import MODELS
from torch import nn

NUM_CLASSES = 7
LINEAR = {
    'type': 'LinearClsHead',
    'num_classes': NUM_CLASSES,
    'loss': {'type': 'CrossEntropyLoss', 'loss_weight': 1.0},
}
POOL = {'type': 'GlobalAveragePooling'}


@MODELS.register_module(force=True)
class ChannelsLastPooling(nn.Module):
    """Pools the (B, H, W, C) maps of timm, for which MMPretrain has no neck."""

    def forward(self, features):
        return tuple(feature.mean((1, 2)) for feature in features)


def classifier(backbone, in_channels, neck=POOL, head=LINEAR, **extra):
    return {
        'type': 'ImageClassifier',
        'backbone': backbone,
        'neck': neck,
        'head': {**head, 'in_channels': in_channels},
        **extra,
    }


RESNET_CIFAR = {'type': 'ResNet_CIFAR', 'depth': 18, 'stem_channels': 8, 'base_channels': 8}
SWIN = {
    'type': 'SwinTransformer',
    'arch': {'embed_dims': 12, 'depths': [2, 2, 2, 2], 'num_heads': [1, 2, 3, 6]},
    'window_size': 4,
    'pad_small_map': True,
    'drop_path_rate': 0.0,
}
CONVNEXT = {
    'type': 'ConvNeXt',
    'arch': {'depths': [1, 1, 2, 1], 'channels': [8, 16, 24, 32]},
    'drop_path_rate': 0.0,
}
VIT = {
    'type': 'VisionTransformer',
    'arch': {
        'embed_dims': 24,
        'num_layers': 8,
        'num_heads': 2,
        'feedforward_channels': 48,
    },
    'img_size': 64,
    'drop_rate': 0.0,
}
EFFICIENT = {'type': 'EfficientNet', 'arch': 'b0', 'drop_path_rate': 0.0}

# name: (model, where location='auto' is)
CLASSIFIERS = {
    'resnet': (
        classifier({'type': 'ResNet', 'depth': 18, 'stem_channels': 8, 'base_channels': 8}, 64),
        'backbone.layer1',
    ),
    'resnet-cifar': (classifier(RESNET_CIFAR, 64), 'backbone.layer1'),
    'swin': (classifier(SWIN, 96), 'backbone.stages.1'),
    'convnext': (classifier(CONVNEXT, 32, neck=None), 'backbone.stages.0'),
    'vit': (
        classifier(
            VIT, 24, neck=None, head={**LINEAR, 'type': 'VisionTransformerClsHead'}
        ),
        'backbone.layers.1',
    ),
    'mobilenet-v3': (
        classifier(
            {'type': 'MobileNetV3', 'arch': 'small_075'},
            432,
            head={**LINEAR, 'type': 'StackedLinearClsHead', 'mid_channels': [32],
                  'act_cfg': {'type': 'HSwish'}},
        ),
        'backbone.layer3',
    ),
    'efficientnet': (classifier(EFFICIENT, 1280), 'backbone.layers.1'),
    'timm-resnet': (
        classifier({'type': 'TIMMBackbone', 'model_name': 'resnet10t'}, 512),
        'backbone.timm_model.layer1',
    ),
    'timm-swin': (
        classifier(
            {'type': 'TIMMBackbone', 'model_name': 'swin_tiny_patch4_window7_224', 'img_size': 64,
             'embed_dim': 12, 'depths': (2, 2, 2, 2), 'num_heads': (1, 2, 3, 6), 'window_size': 4,
             'drop_path_rate': 0.0},
            96,
            neck={'type': 'ChannelsLastPooling'},
        ),
        'backbone.timm_model.layers.1',
    ),
}
