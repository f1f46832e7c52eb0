"""Decides, when a model is built, where and how its batch is cut."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from mmpfb.analysis.saving import modes_by_cost
from mmpfb.errors import LocationError
from mmpfb.models.loss_modules import loss_modules
from mmpfb.models.measures import LastLayerGradients, image_losses
from mmpfb.models.probe import Probe, Stage
from mmpfb.models.rescore import Rescore
from mmpfb.models.reuse import Reuse
from mmpfb.models.settings import PruningSettings
from mmpfb.models.whole_pass import WholePass
from mmpfb.selectors import Needs

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
    cut: Reuse | Rescore | WholePass
    note: str | None = None


def place_cut(
    model: nn.Module,
    settings: PruningSettings,
    auto_location: Callable[[], str],
    encoder: str,
    extract: str,
    needs: Needs,
    head: str,
) -> Placement:
    """Return where and how the batch of a model is cut.

    Args:
        model: Model that is complete but for its pruning.
        settings: What the user asked for.
        auto_location: Returns what ``location='auto'`` stands for, or raises a ``LocationError``.
        encoder: Name of the child of the model that takes images.
        extract: Name of its method that maps images to features, through the whole encoder.
        needs: What the selector has to know about the images.
        head: Name of its child that ends in the last layer.

    Raises:
        ImageLossError: If the selector needs losses of images and the model has no loss modules.
        LocationError: If the model cannot be cut as asked for; the message lists where it can.
        ValueError: If the model takes no images of ``score_scale``.
    """
    if needs.whole_network:
        return _place_whole_pass(model, settings, needs, head)
    needs_features = needs is Needs.FEATURES
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


def _place_whole_pass(
    model: nn.Module, settings: PruningSettings, needs: Needs, head: str
) -> Placement:
    loss_modules(model)
    measure = image_losses if needs is Needs.LOSSES else LastLayerGradients(head)
    scale = 1.0 if settings.score_scale is None else settings.score_scale
    note = (
        f'the {needs.value} of all images are computed in a forward pass of the whole network, '
        "whatever `mode` says"
    )
    if settings.location != 'auto':
        note += f'; location={settings.location!r} has no meaning there'
    # Nothing is cut, and what is measured has no channels.
    stage = Stage(channels=1, axis=1, stride=1)
    return Placement(head, 'rescore', stage, WholePass(measure, scale), f'{note}.')
