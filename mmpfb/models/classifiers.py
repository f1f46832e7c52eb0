"""Classifiers of MMPretrain that prune their batch in training."""

from typing import Any

from mmpretrain.models import ImageClassifier

from mmpfb.models.locations import early_stage
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.registry import MODELS


@MODELS.register_module()
class PFBImageClassifier(BatchPruningMixin, ImageClassifier):
    """``ImageClassifier`` with the extra argument ``pruning=dict(...)``.

    Soft labels that Mixup and CutMix make in the preprocessor belong to the mixed image and follow
    it.

    Raises:
        TypeError: If the arguments are those of ``TimmClassifier`` or ``HuggingFaceClassifier``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if 'model_name' in kwargs:
            raise TypeError(
                'TimmClassifier and HuggingFaceClassifier cannot be pruned: they have no backbone '
                "apart from their head. Give mmpfb.PFBImageClassifier a backbone, such as "
                "dict(type='TIMMBackbone', model_name='resnet18'), a neck and a head."
            )
        super().__init__(*args, **kwargs)

    def _auto_location(self) -> str:
        return f'backbone.{early_stage(self.backbone)}'
