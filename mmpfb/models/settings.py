"""The ``pruning=dict(...)`` argument of a model, checked when the model is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mmpfb.core.checks import check_choice, check_positive_int, check_ratio, check_share

MODES = ('reuse', 'rescore', 'auto')


@dataclass(frozen=True)
class PruningSettings:
    """Arguments of a pruned model, with their defaults.

    Attributes:
        selector: Configuration of the selector, ``dict(type=name, **arguments)``; ``PFB`` without a
            type.
        ratio: Share of the images to prune, in [0, 1).
        location: Module path at whose output the batch is cut, such as ``'backbone.layer3'``, or
            ``'auto'``: for a segmentor the stage that the auxiliary head reads, for a classifier
            an early stage (:func:`mmpfb.models.locations.early_stage`).
        mode: ``'reuse'``: the retained images go on with the features they were scored by.
            ``'rescore'``: a pass without gradients, which ends at the cut, scores all images, and
            the ordinary step follows with the retained ones. ``'auto'``: the one that saves most of
            those that work (:func:`mmpfb.analysis.saving.modes_by_cost`).
        score_scale: Factor in (0, 1] on both sides of the images that ``'rescore'`` scores; None:
            1.0, and with ``'auto'`` 0.5 where the model takes it. Always 1.0 with ``'reuse'``.
        min_keep: Fewest images to retain; None: 2 where a batch normalisation behind a global
            pooling needs two values to train, otherwise 1.
    """

    selector: Mapping[str, Any] = field(default_factory=lambda: {'type': 'PFB'})
    ratio: float = 0.3
    location: str = 'auto'
    mode: str = 'reuse'
    score_scale: float | None = None
    min_keep: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> 'PruningSettings':
        """Check and complete the argument.

        Args:
            config: What the user wrote; None or an empty dict means the defaults.

        Raises:
            TypeError: If ``config`` or its ``selector`` is no dict, or ``location`` is no string.
            ValueError: If a key is unknown or a value is out of range.
        """
        if config is not None and not isinstance(config, Mapping):
            raise TypeError(
                f'Expected argument `pruning` to be a dict, but got {type(config).__name__}.'
            )
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(config or {}) - set(known))
        if unknown:
            raise ValueError(
                f'Expected the keys of `pruning` to be among {known}, but got {unknown}.'
            )
        settings = cls(**(config or {}))
        if not isinstance(settings.selector, Mapping):
            raise TypeError(
                "Expected argument `selector` to be a dict such as dict(type='PFB'), "
                f'but got {settings.selector!r}.'
            )
        if not isinstance(settings.location, str):
            raise TypeError(
                "Expected argument `location` to be 'auto' or a module path, "
                f'but got {settings.location!r}.'
            )
        if 'type' not in settings.selector:
            # `--cfg-options model.pruning.selector.num_centroids=16` gives the option alone.
            settings = replace(settings, selector={'type': 'PFB', **settings.selector})
        check_ratio('ratio', settings.ratio)
        check_choice('mode', settings.mode, MODES)
        if settings.score_scale is not None:
            check_share('score_scale', settings.score_scale)
        if settings.mode == 'reuse' and settings.score_scale not in (None, 1):
            raise ValueError(
                "Expected argument `score_scale` to be 1.0 with mode='reuse', which scores images "
                f'by the features they are trained with, but got {settings.score_scale!r}; '
                "mode='rescore' takes other values."
            )
        if settings.min_keep is not None:
            check_positive_int('min_keep', settings.min_keep)
        return settings
