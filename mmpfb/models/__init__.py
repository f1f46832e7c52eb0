"""Models of the OpenMMLab stack that prune their batch; imported when a configuration names one."""

from importlib.util import find_spec

__all__ = []

# A package that is not installed must not disturb the users of the other one.
if find_spec('mmseg') is not None:
    from mmpfb.models.segmentors import PFBCascadeEncoderDecoder, PFBEncoderDecoder

    __all__ += ['PFBCascadeEncoderDecoder', 'PFBEncoderDecoder']
