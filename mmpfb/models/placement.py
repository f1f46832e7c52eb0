"""Decides, when a model is built, where and how its batch is cut."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from mmpfb.analysis.saving import modes_by_cost
from mmpfb.errors import LocationError
from mmpfb.models.probe import Probe, Stage
from mmpfb.models.rescore import Rescore
from mmpfb.models.reuse import Reuse
from mmpfb.models.settings import PruningSettings

# Half the side costs a quarter and agrees with the training features nearly as well as the whole
# side does; a quarter of the side agrees less and hardly anything is left to save (docs/results.md,
# "Do cheaper scores keep the same images?").
AUTO_SCALES = (0.5, 1.0)


class Placement(NamedTuple):
    """Where and how a batch is cut.

    Attributes:
        location: Module path of the place.
        mode: ``'reuse'`` or ``'rescore'``.
        stage: What its output is like.
        cut: What computes the loss of a batch that is cut there.
        note: A sentence that the user should read, or None.
    """

    location: str
    mode: str
    stage: Stage
    cut: Reuse | Rescore
    note: str | None = None


def place_cut(
    model: nn.Module,
    settings: PruningSettings,
    auto_location: Callable[[], str],
    encoder: str,
    extract: str,
    needs_features: bool,
) -> Placement:
    """Return where and how the batch of a model is cut.

    Args:
        model: Model that is complete but for its pruning.
        settings: What the user asked for.
        auto_location: Returns what ``location='auto'`` stands for, or raises a ``LocationError``.
        encoder: Name of the child of the model that takes images.
        extract: Name of its method that maps images to features, through the whole encoder.
        needs_features: Whether the choice depends on the images.

    Raises:
        LocationError: If the model cannot be cut as asked for; the message lists where it can.
        ValueError: If the model takes no images of ``score_scale``.
    """
    probe = Probe(model, encoder, extract)
    location = settings.location
    if location == 'auto':
        try:
            location = auto_location()
        except LocationError as error:
            where = probe.where('reuse' if settings.mode == 'reuse' else 'rescore')
            raise LocationError(f'{str(error).rstrip(".")}; {where}.') from None

    def place(mode: str, scale: float) -> Placement:
        if mode == 'reuse':
            stage = probe.reuse(location)
            cut = model.get_submodule(location)
            reuse = Reuse(cut, model.get_submodule(encoder))
            return Placement(location, mode, stage, reuse)
        scoring, stage = probe.rescore(location, scale)
        # The size of the images of a classifier is not known before training.
        scale_is_free = settings.mode == 'auto' and settings.score_scale is None
        rescore = Rescore(scoring, stage.stride, needs_features, scale_is_free)
        return Placement(location, mode, stage, rescore)

    given = settings.score_scale
    if settings.mode != 'auto':
        return place(settings.mode, 1.0 if given is None else given)
    scales = AUTO_SCALES if given is None else [given]
    errors: list[ValueError] = []
    for mode, scale in modes_by_cost(settings.ratio, scales, needs_features):
        try:
            placed = place(mode, scale)
        except ValueError as error:
            errors.append(error)
            continue
        reason = f' (what would save more does not work: {errors[-1]})' if errors else ''
        at_scale = f' at scale {scale:g}' if mode == 'rescore' else ''
        return placed._replace(note=f"mode='auto' is {mode!r}{at_scale} here{reason}.")
    raise errors[0]
