"""Decides, when a model is built, where and how its batch is cut."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from mmpfb.analysis.saving import cheaper_mode
from mmpfb.errors import LocationError
from mmpfb.models.probe import Probe, Stage
from mmpfb.models.rescore import Rescore
from mmpfb.models.reuse import Reuse
from mmpfb.models.settings import PruningSettings


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

    def place(mode: str) -> Placement:
        if mode == 'reuse':
            stage = probe.reuse(location)
            cut = model.get_submodule(location)
            return Placement(location, mode, stage, Reuse(cut, model.get_submodule(encoder)))
        scoring, stage = probe.rescore(location, settings.score_scale)
        return Placement(location, mode, stage, Rescore(scoring, stage.stride, needs_features))

    if settings.mode != 'auto':
        return place(settings.mode)
    cheaper = cheaper_mode(settings.ratio, settings.score_scale, needs_features)
    other = 'rescore' if cheaper == 'reuse' else 'reuse'
    try:
        placed, reason = place(cheaper), 'the one that saves more'
    except ValueError as error:
        placed, reason = place(other), f'because {cheaper!r} does not work: {error}'
    return placed._replace(note=f"mode='auto' is {placed.mode!r} here, {reason}.")
