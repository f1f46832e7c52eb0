"""Makes the ``loss`` of an OpenMMLab model prune its batch; holds no formula."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmpfb.errors import LocationError
from mmpfb.models.placement import place_cut
from mmpfb.models.rescore import ScoringPass
from mmpfb.models.reuse import Reuse
from mmpfb.models.settings import PruningSettings
from mmpfb.models.smallest_batch import smallest_trainable_batch
from mmpfb.models.whole_pass import WholePass
from mmpfb.pruner import BatchPruner, Phase
from mmpfb.selectors import build_selector

# The compiler keeps code per class, and by default nothing tells it that a model got a hook.
CUT_DID_NOT_RUN = (
    'The images left the encoder without having been cut at {!r}. If the model is compiled, one of '
    'the same classes was compiled in this process before, with no cut there, and its code is used '
    'again: call `torch._dynamo.reset()` in between, or set '
    '`torch._dynamo.config.skip_nnmodule_hook_guards = False` first. If not, choose another '
    '`location`.'
)


@dataclass
class _Step:
    """One training step between the scoring of its images and the loss.

    Only the heads read the data samples. Their list is empty until the choice is known, so that the
    labels of other images can never be read, unless the choice depends on the losses of all images.
    """

    data_samples: Sequence
    retained_samples: list = field(default_factory=list)
    decided: bool = False


class BatchPruningMixin:
    """Adds ``pruning=dict(...)`` to a model with an encoder, ``extract_feat`` and ``loss``.

    To be named before the stock class in the list of bases. Only the training loss is touched;
    ``predict``, ``tensor`` mode, validation and the ``state_dict`` are the stock model's.

    Args:
        pruning: See :class:`mmpfb.models.settings.PruningSettings`; None means its defaults.

    Attributes:
        pruning_settings: The checked argument.
        pruner: The decisions and their books, a :class:`mmpfb.pruner.BatchPruner`.
        pruning_location: Module path at which the batch is cut, or the head if its losses decide.
        pruning_mode: ``'reuse'`` or ``'rescore'``, whatever ``'auto'`` stands for.
        pruning_cut: Computes the loss of a pruned batch.
        pruning_encoder: Name of the child that takes images.
        pruning_head: Name of the child that ends in the last layer.
    """

    pruning_encoder = 'backbone'
    pruning_head = 'head'
    _step: '_Step | None' = None

    def __init__(
        self, *args: Any, pruning: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        settings = PruningSettings.from_config(pruning)
        selector = build_selector(settings.selector)
        super().__init__(*args, **kwargs)
        self.pruning_settings = settings
        place = place_cut(
            self,
            settings,
            self._auto_location,
            self.pruning_encoder,
            'pruning_features',
            selector.needs,
            self.pruning_head,
        )
        self.pruning_location, self.pruning_mode = place.location, place.mode
        for note in (place.note, selector.prepare(place.stage.channels)):
            if note is not None:
                print_log(f'Pruning at {self.pruning_location}: {note}', logger='current')
        min_keep = settings.min_keep or smallest_trainable_batch(self)
        self.pruner = BatchPruner(selector, settings.ratio, min_keep, place.stage.axis)
        self.pruning_cut = place.cut

    def loss(self, inputs: Tensor, data_samples: list, *args: Any, **kwargs: Any) -> Any:
        """Compute the stock loss, in training on the retained images alone.

        Args:
            inputs: Images of shape ``(B, C, H, W)``.
            data_samples: Their ``B`` data samples; the list is not changed.
            *args: Passed on to the stock loss.
            **kwargs: Passed on to the stock loss.

        Returns:
            What the stock loss returns.
        """
        if not self.training or not torch.is_grad_enabled():
            return super().loss(inputs, data_samples, *args, **kwargs)
        # In evaluation mode the features of the first iterations are those of running statistics
        # that have yet to settle: centroids taken from them would lie apart from all later images.
        too_early = self.pruner.phase is Phase.OBSERVE and self.pruning_mode == 'rescore'
        if self.pruner.phase is Phase.IDLE or too_early:
            self.pruner.count_unscored(len(data_samples))
            return super().loss(inputs, data_samples, *args, **kwargs)

        self._step = step = _Step(data_samples)
        if isinstance(self.pruning_cut, WholePass):
            step.retained_samples = list(data_samples)

        def stock_loss(images: Tensor) -> Any:
            stock = super(BatchPruningMixin, self)
            return stock.loss(images, step.retained_samples, *args, **kwargs)

        try:
            return self.pruning_cut.loss(self, stock_loss, inputs, self._decide)
        finally:
            self._step = None

    @property
    def pruning_score_scale(self) -> float:
        """Factor on both sides of the images that are scored."""
        return self.pruning_cut.score_scale

    def scoring_pass(self, scale: float) -> ScoringPass:
        """Return a pass that scores images at the place of the cut, at a scale in (0, 1]."""
        return ScoringPass(self.pruning_location, self.pruning_encoder, 'pruning_features', scale)

    def extract_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Return the stock features; in training also let the labels follow the images."""
        features = super().extract_feat(*args, **kwargs)
        self._settle_samples()
        return features

    @torch._dynamo.disable
    def _decide(self, output: Any) -> Tensor | None:
        assert self._step is not None
        self._step.decided = True
        return self.pruner.choose(output, len(self._step.data_samples))

    @torch._dynamo.disable
    def _settle_samples(self) -> None:
        """Fill the list that the heads read, once the encoder has been launched.

        This is where the host waits for the choice. A GPU is busy with the encoder by then.
        """
        step = self._step
        if step is None:
            return
        if not step.decided:
            # Of a pass through the whole network that measures all images.
            if isinstance(self.pruning_cut, Reuse):
                raise LocationError(CUT_DID_NOT_RUN.format(self.pruning_location))
            return
        kept = self.pruner.last_kept
        samples = step.data_samples
        step.retained_samples[:] = samples if kept is None else [samples[i] for i in kept]

    def pruning_features(self, images: Tensor) -> Any:
        """Return what the heads read, through every place where a batch may be cut."""
        return self.extract_feat(images)

    @abstractmethod
    def _auto_location(self) -> str:
        """Return the module path that ``location='auto'`` stands for."""
