"""The table of segmentors that the tests of cutting sweep: a new one joins by a row."""

BATCH_NORM = {'type': 'BN', 'requires_grad': True}
NUM_CLASSES = 5


def head(kind, in_channels, in_index=-1, channels=16, **extra):
    return {
        'type': kind,
        'in_channels': in_channels,
        'in_index': in_index,
        'channels': channels,
        'num_classes': NUM_CLASSES,
        'norm_cfg': BATCH_NORM,
        'dropout_ratio': 0.0,
        'align_corners': False,
        'loss_decode': {'type': 'CrossEntropyLoss', 'loss_weight': 1.0},
        **extra,
    }


def fcn(in_channels, in_index=-1):
    return head('FCNHead', in_channels, in_index, num_convs=1, concat_input=False)


def resnet(**extra):
    return {
        'type': 'ResNetV1c',
        'depth': 18,
        'base_channels': 16,
        'stem_channels': 16,
        'out_indices': (0, 1, 2, 3),
        'strides': (1, 2, 1, 1),
        'dilations': (1, 1, 2, 4),
        'contract_dilation': True,
        'norm_cfg': BATCH_NORM,
        **extra,
    }


SWIN = {
    'type': 'SwinTransformer',
    'embed_dims': 16,
    'depths': (2, 2, 2, 2),
    'num_heads': (1, 2, 4, 8),
    'window_size': 4,
    'drop_path_rate': 0.0,
}
MIT = {
    'type': 'MixVisionTransformer',
    'embed_dims': 8,
    'num_layers': [1, 1, 1, 1],
    'num_heads': [1, 2, 4, 8],
    'drop_path_rate': 0.0,
}
CONVNEXT = {
    'type': 'mmpretrain.ConvNeXt',
    'arch': {'depths': [1, 1, 2, 1], 'channels': [16, 32, 64, 128]},
    'out_indices': [0, 1, 2, 3],
    'gap_before_final_norm': False,
    'drop_path_rate': 0.0,
}
HRNET = {
    'type': 'HRNet',
    'norm_cfg': BATCH_NORM,
    'extra': {
        'stage1': dict(
            num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(16,)
        ),
        'stage2': dict(
            num_modules=1, num_branches=2, block='BASIC', num_blocks=(1, 1), num_channels=(8, 16)
        ),
        'stage3': dict(
            num_modules=1, num_branches=3, block='BASIC', num_blocks=(1,) * 3,
            num_channels=(8, 16, 32),
        ),
        'stage4': dict(
            num_modules=1, num_branches=4, block='BASIC', num_blocks=(1,) * 4,
            num_channels=(8, 16, 32, 64),
        ),
    },
}
VIT = {
    'type': 'VisionTransformer',
    'img_size': (64, 64),
    'patch_size': 16,
    'embed_dims': 32,
    'num_layers': 4,
    'num_heads': 2,
    'out_indices': (0, 1, 2, 3),
}
MOBILENET = {'type': 'MobileNetV2', 'widen_factor': 0.5, 'out_indices': (1, 2, 4, 6),
             'norm_cfg': BATCH_NORM}

RESNET_CHANNELS = [16, 32, 64, 128]
SWIN_CHANNELS = [16, 32, 64, 128]
HR_CHANNELS = [8, 16, 32, 64]


def uper(in_channels):
    return head('UPerHead', in_channels, [0, 1, 2, 3], pool_scales=(1, 2))


def segmentor(backbone, decode_head, auxiliary_head=None, **extra):
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (64, 64)},
        'backbone': backbone,
        'decode_head': decode_head,
        'auxiliary_head': auxiliary_head,
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
        **extra,
    }


# name: (model, where location='auto' is)
SEGMENTORS = {
    'fcn-resnet': (segmentor(resnet(), fcn(128, 3), fcn(64, 2)), 'backbone.layer3'),
    'fcn-resnet-two-aux': (
        segmentor(resnet(), fcn(128, 3), [fcn(32, 1), fcn(64, 2)]), 'backbone.layer3',
    ),
    'pspnet-resnet': (
        segmentor(resnet(), head('PSPHead', 128, 3, pool_scales=(1, 2)), fcn(64, 2)),
        'backbone.layer3',
    ),
    'deeplabv3-resnet': (
        segmentor(resnet(), head('ASPPHead', 128, 3, dilations=(1, 6)), fcn(64, 2)),
        'backbone.layer3',
    ),
    'deeplabv3plus-resnet': (
        segmentor(
            resnet(),
            head('DepthwiseSeparableASPPHead', 128, 3, dilations=(1, 6), c1_in_channels=16,
                 c1_channels=8),
            fcn(64, 2),
        ),
        'backbone.layer3',
    ),
    'upernet-resnet': (segmentor(resnet(), uper(RESNET_CHANNELS), fcn(64, 2)), 'backbone.layer3'),
    'upernet-swin': (segmentor(SWIN, uper(SWIN_CHANNELS), fcn(64, 2)), 'backbone.stages.2'),
    'upernet-convnext': (
        segmentor(CONVNEXT, uper([16, 32, 64, 128]), fcn(64, 2)), 'backbone.stages.2',
    ),
    'fpn-resnet': (
        segmentor(
            resnet(),
            head('FPNHead', [16] * 4, [0, 1, 2, 3], feature_strides=[4, 8, 8, 8]),
            neck={'type': 'FPN', 'in_channels': RESNET_CHANNELS, 'out_channels': 16,
                  'num_outs': 4},
        ),
        'backbone.layer3',
    ),
    'segformer-mit': (
        segmentor(MIT, head('SegformerHead', [8, 16, 32, 64], [0, 1, 2, 3])),
        'backbone.layers.2.2',
    ),
    'fcn-hrnet': (
        segmentor(
            HRNET,
            head('FCNHead', HR_CHANNELS, (0, 1, 2, 3), channels=sum(HR_CHANNELS), num_convs=1,
                 concat_input=False, kernel_size=1, input_transform='resize_concat'),
        ),
        'backbone.stage3',
    ),
    'uper-vit': (segmentor(VIT, uper([32] * 4), fcn(32, 2)), 'backbone.layers.2'),
    'fcn-mobilenet': (segmentor(MOBILENET, fcn(160, 3), fcn(48, 2)), 'backbone.layer5'),
    'ocrnet-hrnet': (
        segmentor(
            HRNET,
            [
                head('FCNHead', HR_CHANNELS, (0, 1, 2, 3), channels=sum(HR_CHANNELS), num_convs=1,
                     concat_input=False, kernel_size=1, input_transform='resize_concat'),
                head('OCRHead', HR_CHANNELS, (0, 1, 2, 3), channels=32, ocr_channels=16,
                     input_transform='resize_concat'),
            ],
            type='CascadeEncoderDecoder',
            num_stages=2,
        ),
        'backbone.stage3',
    ),
    'ocrnet-resnet': (
        segmentor(
            resnet(),
            [fcn(64, 2), head('OCRHead', 128, 3, channels=32, ocr_channels=16)],
            type='CascadeEncoderDecoder',
            num_stages=2,
        ),
        'backbone.layer3',
    ),
}


# Backbones that remember their batch size or have branches that leave before the cut.
# name: (model, location)
SEGMENTORS_FOR_RESCORE = {
    'mscan': (
        segmentor(
            {'type': 'MSCAN', 'embed_dims': [8, 16, 32, 64], 'depths': [1, 1, 1, 1],
             'drop_path_rate': 0.0, 'norm_cfg': BATCH_NORM},
            fcn(64, 3),
        ),
        'backbone.block3.0',
    ),
    'pcpvt': (
        segmentor(
            {'type': 'PCPVT', 'embed_dims': [8, 16, 32, 64], 'num_heads': [1, 2, 4, 8],
             'depths': [1, 1, 1, 1], 'sr_ratios': [8, 4, 2, 1], 'drop_path_rate': 0.0},
            fcn(64, 3),
        ),
        'backbone.layers.2.0',
    ),
    'unet': (
        segmentor(
            {'type': 'UNet', 'base_channels': 8, 'num_stages': 3, 'strides': (1, 1, 1),
             'enc_num_convs': (1, 1, 1), 'dec_num_convs': (1, 1), 'downsamples': (True, True),
             'enc_dilations': (1, 1, 1), 'dec_dilations': (1, 1), 'norm_cfg': BATCH_NORM},
            fcn(8, 2),
        ),
        'backbone.encoder.2',
    ),
    'bisenetv1': (
        segmentor(
            {'type': 'BiSeNetV1', 'context_channels': (16, 32, 64),
             'spatial_channels': (8, 8, 8, 16), 'out_channels': 32, 'norm_cfg': BATCH_NORM,
             'backbone_cfg': {'type': 'ResNet', 'depth': 18, 'base_channels': 8,
                              'norm_cfg': BATCH_NORM}},
            fcn(32, 0),
            fcn(16, 1),
        ),
        'backbone.context_path.backbone.layer2',
    ),
    'bisenetv2': (
        segmentor(
            {'type': 'BiSeNetV2', 'detail_channels': (8, 8, 16),
             'semantic_channels': (8, 16, 32, 16), 'semantic_expansion_ratio': 2,
             'bga_channels': 16, 'norm_cfg': BATCH_NORM},
            fcn(16, 0),
            fcn(16, 2),
        ),
        'backbone.semantic.stage3',
    ),
    'pidnet': (
        segmentor(
            {'type': 'PIDNet', 'channels': 8, 'ppm_channels': 16, 'num_stem_blocks': 1,
             'num_branch_blocks': 1, 'norm_cfg': BATCH_NORM},
            head('PIDHead', 32, loss_decode=[
                {'type': 'CrossEntropyLoss'}, {'type': 'CrossEntropyLoss'},
                {'type': 'BoundaryLoss'}, {'type': 'OhemCrossEntropy', 'thres': 0.9, 'min_kept': 9},
            ]),
        ),
        'backbone.i_branch_layers.1',
    ),
    'ddrnet': (
        segmentor(
            {'type': 'DDRNet', 'channels': 8, 'ppm_channels': 16, 'norm_cfg': BATCH_NORM},
            head('DDRHead', 32, loss_decode=[{'type': 'CrossEntropyLoss'}] * 2),
        ),
        'backbone.context_branch_layers.1',
    ),
    'stdc': (
        segmentor(
            {'type': 'STDCContextPathNet', 'last_in_channels': (128, 64), 'out_channels': 32,
             'backbone_cfg': {
                 'type': 'STDCNet', 'stdc_type': 'STDCNet1', 'in_channels': 3,
                 'channels': (8, 16, 32, 64, 128), 'bottleneck_type': 'cat', 'num_convs': 4,
                 'norm_cfg': BATCH_NORM, 'act_cfg': {'type': 'ReLU'}, 'with_final_conv': False},
             'ffm_cfg': {'in_channels': 64, 'out_channels': 64, 'scale_factor': 4}},
            fcn(64, 3),
            fcn(32, 2),
        ),
        'backbone.backbone.stages.3',
    ),
    'fastscnn': (
        segmentor(
            {'type': 'FastSCNN', 'downsample_dw_channels': (8, 16), 'global_in_channels': 16,
             'global_block_channels': (16, 24, 32), 'global_out_channels': 32,
             'higher_in_channels': 16, 'lower_in_channels': 32, 'fusion_out_channels': 32,
             'norm_cfg': BATCH_NORM},
            fcn(32, 2),
        ),
        'backbone.global_feature_extractor',
    ),
}
