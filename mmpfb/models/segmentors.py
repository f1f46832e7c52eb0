"""Segmentors of MMSegmentation that prune their batch in training."""

from mmseg.models import CascadeEncoderDecoder, EncoderDecoder
from torch import nn

from mmpfb.models.locations import stage_of_output, third_stage
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.registry import MODELS


class SegmentorPruningMixin(BatchPruningMixin):
    """Where ``location='auto'`` is for a segmentor."""

    pruning_head = 'decode_head'

    def _auto_location(self) -> str:
        """Return the stage that the auxiliary head reads, the deepest one if there are several.

        Without an auxiliary head it is the third of four stages, where such heads usually attach.
        """
        if not self.with_auxiliary_head:
            return f'backbone.{third_stage(self.backbone)}'
        heads = self.auxiliary_head
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        outputs = []
        for head in heads:
            index = head.in_index
            outputs.extend(index if isinstance(index, (list, tuple)) else [index])
        return f'backbone.{stage_of_output(self.backbone, max(outputs))}'


@MODELS.register_module()
class PFBEncoderDecoder(SegmentorPruningMixin, EncoderDecoder):
    """``EncoderDecoder`` with the extra argument ``pruning=dict(...)``."""


@MODELS.register_module()
class PFBCascadeEncoderDecoder(SegmentorPruningMixin, CascadeEncoderDecoder):
    """``CascadeEncoderDecoder`` with the extra argument ``pruning=dict(...)``."""
