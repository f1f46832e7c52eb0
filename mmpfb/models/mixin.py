"""Makes the ``loss`` of an OpenMMLab model prune its batch; holds no formula."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmpfb.core.gate import BatchGate
from mmpfb.errors import LocationError
from mmpfb.models.probe import channels_at, describe_cuttable
from mmpfb.models.settings import PruningSettings
from mmpfb.models.smallest_batch import smallest_trainable_batch
from mmpfb.pruner import BatchPruner, Phase
from mmpfb.selectors import build_selector


class BatchPruningMixin:
    """Adds ``pruning=dict(...)`` to a model with a ``backbone``, ``extract_feat`` and ``loss``.

    To be named before the stock class in the list of bases. Only the training loss is touched;
    ``predict``, ``tensor`` mode, validation and the ``state_dict`` are the stock model's.

    Args:
        pruning: See :class:`mmpfb.models.settings.PruningSettings`; None means its defaults.

    Attributes:
        pruning_settings: The checked argument.
        pruner: The decisions and their books, a :class:`mmpfb.pruner.BatchPruner`.
        pruning_location: Module path at which the batch is cut.
    """

    def __init__(
        self, *args: Any, pruning: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        settings = PruningSettings.from_config(pruning)
        selector = build_selector(settings.selector)
        super().__init__(*args, **kwargs)
        self.pruning_settings = settings
        self.pruning_location = self._resolve_location(settings.location)
        channels = channels_at(self, self.extract_feat, self.pruning_location)
        note = selector.prepare(channels.number)
        if note is not None:
            print_log(f'Pruning at {self.pruning_location}: {note}', logger='current')
        min_keep = settings.min_keep or smallest_trainable_batch(self)
        self.pruner = BatchPruner(selector, settings.ratio, min_keep, channels.axis)
        self._gate = BatchGate(self.get_submodule(self.pruning_location), self.backbone)

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
        if self.pruner.phase is Phase.IDLE:
            self.pruner.count_unscored(len(data_samples))
            return super().loss(inputs, data_samples, *args, **kwargs)

        # Only the heads read the data samples, after the cut: a list that the cut shortens is
        # enough to make the labels follow the images.
        retained_samples = list(data_samples)

        def decide(output: Any) -> Tensor | None:
            keep = self.pruner.choose(output, len(data_samples))
            if self.pruner.last_kept is not None:
                retained_samples[:] = [data_samples[index] for index in self.pruner.last_kept]
            return keep

        with self._gate.open(len(data_samples), decide):
            return super().loss(inputs, retained_samples, *args, **kwargs)

    def _resolve_location(self, location: str) -> str:
        if location != 'auto':
            return location
        try:
            return self._auto_location()
        except LocationError as error:
            where = describe_cuttable(self, self.extract_feat)
            raise LocationError(f'{str(error).rstrip(".")}; {where}.') from None

    @abstractmethod
    def _auto_location(self) -> str:
        """Return the module path that ``location='auto'`` stands for."""
