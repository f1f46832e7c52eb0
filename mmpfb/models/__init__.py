"""Models of the OpenMMLab stack that prune their batch; imported when a configuration names one."""

from mmpfb.optional import import_optional
from mmpfb.registry import MODELS

_found = {
    **import_optional(
        MODELS,
        'mmpfb.models.segmentors',
        ('PFBEncoderDecoder', 'PFBCascadeEncoderDecoder'),
        package='mmsegmentation',
    ),
    **import_optional(
        MODELS,
        'mmpfb.models.classifiers',
        ('PFBImageClassifier', 'PFBTimmClassifier', 'PFBHuggingFaceClassifier'),
        package='mmpretrain',
    ),
}
globals().update(_found)
__all__ = list(_found)
