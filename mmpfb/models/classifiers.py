"""Classifiers of MMPretrain that prune their batch in training."""

from typing import Any

from mmpretrain.models import HuggingFaceClassifier, ImageClassifier, TimmClassifier
from torch import Tensor

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
                'Expected mmpfb.PFBImageClassifier to get a backbone, a neck and a head, but got '
                "`model_name`; for TimmClassifier and HuggingFaceClassifier set the model type to "
                "'mmpfb.PFBTimmClassifier' and 'mmpfb.PFBHuggingFaceClassifier'."
            )
        super().__init__(*args, **kwargs)

    def _auto_location(self) -> str:
        return f'backbone.{early_stage(self.backbone)}'


class WholeNetworkMixin(BatchPruningMixin):
    """For classifiers that hold the network of another package, its head included, as ``model``."""

    pruning_encoder = 'model'
    pruning_head = 'model'

    def pruning_features(self, images: Tensor) -> Any:
        """Return what the network computes, through every place where a batch may be cut."""
        return self.model(images)

    def _get_loss(self, *args: Any, **kwargs: Any) -> Any:
        # Between the network and the labels; these hosts compute no features of their own.
        self._settle_samples()
        return super()._get_loss(*args, **kwargs)

    def _auto_location(self) -> str:
        return f'model.{early_stage(self.model)}'


@MODELS.register_module()
class PFBTimmClassifier(WholeNetworkMixin, TimmClassifier):
    """``TimmClassifier`` with the extra argument ``pruning=dict(...)``."""


@MODELS.register_module()
class PFBHuggingFaceClassifier(WholeNetworkMixin, HuggingFaceClassifier):
    """``HuggingFaceClassifier`` with the extra argument ``pruning=dict(...)``."""
