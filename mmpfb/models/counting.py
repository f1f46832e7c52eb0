"""Counts what pruning saves for the model of a configuration, before anything is trained."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmpfb.analysis.flops import (
    StepFlops,
    count_pruned_step,
    count_step,
    count_up_to,
    whole_batch,
)
from mmpfb.analysis.saving import saving_bound
from mmpfb.core.gate import BatchGate, tensors_of
from mmpfb.core.scoring_pass import traceless
from mmpfb.models.counterparts import pruning_class
from mmpfb.models.locations import candidate_paths
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.models.placement import AUTO_SCALES
from mmpfb.models.probe import BATCH_SIZE, RETAINED
from mmpfb.models.rescore import first_line
from mmpfb.models.settings import PruningSettings
from mmpfb.models.whole_pass import WholePass
from mmpfb.selectors import Needs


class Place(NamedTuple):
    """A place where a model may be cut.

    Attributes:
        location: Module path.
        share: Share of the operations of a training step that lies before it.
        reuse: Bound of the saving with ``mode='reuse'``; None where that mode does not work.
        rescore: Bound of the saving with ``mode='rescore'``.
    """

    location: str
    share: float
    reuse: float | None
    rescore: float


@dataclass(frozen=True)
class Cost:
    """What a training step of a model costs, whole and pruned.

    Attributes:
        model: Name of the class of the model.
        image_size: Height and width of the images.
        location: Module path at which the batch is cut.
        mode: ``'reuse'`` or ``'rescore'``.
        ratio: Share of the images that are pruned, as counted.
        requested_ratio: Share that was asked for. It is rounded if no batch of reasonable size
            allows to prune it exactly.
        score_scale: Factor on both sides of the images that ``'rescore'`` scores.
        batch_size: Number of images of the counted batch.
        num_retained: Number of them that are retained.
        full: Operations per image of a step that prunes nothing.
        pruned: Operations of a step that prunes, per image of the whole batch.
        share_before_cut: Share of ``full`` that lies before the cut; 1 if the losses decide.
        places: Where the model may be cut, from the first to the last; none if the losses decide.
        places_score_scale: Scale at which ``'rescore'`` scores in their bounds.
    """

    model: str
    image_size: tuple[int, int]
    location: str
    mode: str
    ratio: float
    requested_ratio: float
    score_scale: float
    batch_size: int
    num_retained: int
    full: StepFlops
    pruned: StepFlops
    share_before_cut: float
    places: list[Place]
    places_score_scale: float

    @property
    def saved(self) -> float:
        """Share of the operations of a step that pruning saves."""
        return 1 - self.pruned.total / self.full.total


def count_cost(config: Config, image_size: tuple[int, int], **pruning: Any) -> Cost:
    """Count a training step of the model of a configuration, whole and pruned.

    The model is built without pretrained weights and run on meta tensors, through the code that
    prunes in training, from the images to the outputs of its heads.

    Args:
        config: Configuration of a segmentor or classifier, with or without pruning.
        image_size: Height and width of its images.
        **pruning: Replace values of ``model.pruning``.

    Raises:
        LocationError: If the model cannot be cut as asked for.
        NotImplementedError: If its training step cannot be counted.
        TypeError: If there is no model that prunes for it.
        ValueError: If a value is out of range.
    """
    # Not built on the meta device: some backbones compute values while they are built, and whether
    # a cut works is decided by comparing values.
    model: Any = pruning_model(config, pruning).to('meta').train()
    settings = model.pruning_settings
    selector = model.pruner.selector
    batch = whole_batch(settings.ratio, model.pruner.min_keep)
    images = torch.empty(batch.size, 3, *image_size, device='meta')

    def outputs(images: Tensor) -> Any:
        return training_outputs(model, images)

    try:
        full = count_step(lambda: outputs(images))
    except NotInTraining:
        raise
    except Exception as error:
        raise NotImplementedError(
            f'A training step of {type(model).__name__} with images of '
            f'{"x".join(map(str, image_size))} cannot be counted without data: {first_line(error)}'
        ) from error
    mode = model.pruning_mode
    whole_network = selector.needs.whole_network
    cut = WholePass(_outputs_alone, model.pruning_score_scale) if whole_network else (
        model.pruning_cut
    )
    pruned = count_pruned_step(
        lambda decide: cut.loss(model, outputs, images, decide),
        batch,
        scores_apart=mode == 'rescore',
    )

    candidates = candidate_paths(model, model.pruning_encoder)
    # With a pass through the whole network there is no place to choose.
    paths = [] if whole_network else list(dict.fromkeys([*candidates, model.pruning_location]))
    before = count_up_to(
        lambda: model.pruning_features(images),
        {path: model.get_submodule(path) for path in paths},
        batch.size,
    )
    shares = {path: flops.total / full.total for path, flops in before.items()}
    scale = model.pruning_score_scale if mode == 'rescore' else AUTO_SCALES[0]
    # Images that a choice at random needs not see are not scored.
    free = selector.needs is Needs.NOTHING
    can_be_cut = CuttingTest(model, image_size)
    places = [
        Place(
            path,
            share,
            saving_bound(batch.ratio, share, 'reuse') if can_be_cut(path) else None,
            saving_bound(batch.ratio, 0.0 if free else share, 'rescore', scale),
        )
        for path, share in sorted(shares.items(), key=lambda item: item[1])
    ]
    return Cost(
        model=type(model).__name__,
        image_size=image_size,
        location=model.pruning_location,
        mode=mode,
        ratio=batch.ratio,
        requested_ratio=settings.ratio,
        score_scale=model.pruning_score_scale,
        places_score_scale=scale,
        batch_size=batch.size,
        num_retained=batch.num_retained,
        full=full.per_image(batch.size),
        pruned=pruned.per_image(batch.size),
        share_before_cut=1.0 if whole_network else shares[model.pruning_location],
        places=places,
    )


def _outputs_alone(model: nn.Module, run: Callable[[], Any], batch_size: int) -> Tensor:
    """Stand for a measure: there are no labels to compute losses from, and they cost nothing."""
    return next(tensors_of(run()))


def pruning_model(config: Config, pruning: Mapping[str, Any]) -> BatchPruningMixin:
    """Build the model of a configuration so that it prunes, without pretrained weights.

    Args:
        config: Configuration of a model that prunes, or of a stock one that has a counterpart.
        pruning: Replaces values of ``model.pruning``.

    Raises:
        LocationError: If the model cannot be cut as asked for.
        TypeError: If there is no model that prunes for it.
        ValueError: If a value is out of range.
    """
    arguments = copy.deepcopy(config.model)
    if 'data_preprocessor' in config:
        # As the runner does.
        arguments.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
    _forget_weights(arguments)
    settings = arguments.pop('pruning', None) or {}
    PruningSettings.from_config(settings)
    if pruning.get('mode', settings.get('mode')) != settings.get('mode'):
        # The scale belongs to the mode that the configuration names.
        settings = {key: value for key, value in settings.items() if key != 'score_scale'}
    settings = {**settings, **pruning}
    PruningSettings.from_config(settings)
    kind = arguments.pop('type')
    scope = arguments.pop('_scope_', None)
    prunes = pruning_class(kind, scope)
    with ROOT_MODELS.switch_scope_and_registry(scope):
        # Not through the registry, which puts the name of a file in front of messages.
        return prunes(pruning=settings, **arguments)


class CuttingTest:
    """Tells by shapes where ``mode='reuse'`` works.

    Args:
        model: Model that prunes, on the meta device.
        image_size: Height and width of its images.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        self._model = model
        self._images = torch.empty(BATCH_SIZE, 3, *image_size, device='meta')
        self._keep = torch.tensor(RETAINED, device='meta')
        self._expected = self._shapes(self._images[: len(RETAINED)])

    def __call__(self, path: str) -> bool:
        """Return whether a batch can be cut at the output of a module."""
        model = self._model
        gate = BatchGate(model.get_submodule(path), model.get_submodule(model.pruning_encoder))
        try:
            with gate.open(BATCH_SIZE, lambda output: self._keep):
                return self._shapes(self._images) == self._expected
        except Exception:  # noqa: BLE001 - whether it fails is the question
            return False
        finally:
            gate.remove()

    def _shapes(self, images: Tensor) -> list[tuple[int, ...]]:
        with traceless(self._model, images.device):
            features = self._model.pruning_features(images)
            return [tuple(tensor.shape) for tensor in tensors_of(features)]


def training_outputs(model: nn.Module, images: Tensor) -> Any:
    """Return all that the loss functions of a model see in training.

    Args:
        model: Model that prunes.
        images: Images of shape ``(B, C, H, W)``.

    Raises:
        NotImplementedError: If it is unknown what one of its parts computes in training.
    """
    own = type(model).loss
    if own is BatchPruningMixin.loss:
        own = super(BatchPruningMixin, model).loss.__func__
    return _known(_MODELS, own, model)(model, images)


class NotInTraining(NotImplementedError):
    """It is unknown what a part of a model computes in training."""


def _segmentor_outputs(model: Any, images: Tensor) -> list[Any]:
    features = model.extract_feat(images)
    decode = _known(_DECODERS, type(model)._decode_head_forward_train, model)
    outputs = decode(model, features)
    if model.with_auxiliary_head:
        heads = model.auxiliary_head
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            outputs.append(_head_outputs(head, features))
    return outputs


def _decoder_outputs(model: Any, features: Any) -> list[Any]:
    return [_head_outputs(model.decode_head, features)]


def _cascade_outputs(model: Any, features: Any) -> list[Any]:
    first, *others = model.decode_head
    outputs = [_head_outputs(first, features)]
    # In training every head but the last runs a second time, for the one behind it.
    previous: tuple[Any, ...] = ()
    heads = [first, *others]
    for behind, head in zip(heads, others, strict=False):
        previous = (_head_outputs(behind, features, *previous),)
        outputs.append(_head_outputs(head, features, *previous))
    return outputs


def _classifier_outputs(model: Any, images: Tensor) -> Any:
    return _head_outputs(model.head, model.extract_feat(images))


def _whole_model_outputs(model: Any, images: Tensor) -> Any:
    outputs = model.model(images)
    return getattr(outputs, 'logits', outputs)


def _head_outputs(head: nn.Module, *inputs: Any) -> Any:
    return _known(_HEADS, type(head).loss, head)(head, *inputs)


# By package and name of the method that computes a loss in training: only where that is known to
# be a forward pass followed by loss functions, the forward pass may stand for it.
_MODELS: dict[str, Callable[..., Any]] = {
    'mmseg EncoderDecoder.loss': _segmentor_outputs,
    'mmpretrain ImageClassifier.loss': _classifier_outputs,
    'mmpretrain TimmClassifier.loss': _whole_model_outputs,
    'mmpretrain HuggingFaceClassifier.loss': _whole_model_outputs,
}
_DECODERS: dict[str, Callable[..., Any]] = {
    'mmseg EncoderDecoder._decode_head_forward_train': _decoder_outputs,
    'mmseg CascadeEncoderDecoder._decode_head_forward_train': _cascade_outputs,
}
_HEADS: dict[str, Callable[..., Any]] = {
    'mmseg BaseDecodeHead.loss': lambda head, *inputs: head.forward(*inputs),
    'mmseg BaseCascadeDecodeHead.loss': lambda head, *inputs: head.forward(*inputs),
    'mmpretrain ClsHead.loss': lambda head, *inputs: head(*inputs),
    'mmpretrain MultiLabelClsHead.loss': lambda head, *inputs: head(*inputs),
}


def _known(
    table: Mapping[str, Callable[..., Any]], method: Any, owner: nn.Module
) -> Callable[..., Any]:
    name = f'{method.__module__.partition(".")[0]} {method.__qualname__}'
    if name not in table:
        raise NotInTraining(
            f'{type(owner).__name__} cannot be counted: it trains by {method.__qualname__} of '
            f'{method.__module__}, and what that computes is not known; known are '
            f'{", ".join(entry.partition(" ")[2] for entry in table)}.'
        )
    return table[name]


def _forget_weights(arguments: Any) -> None:
    """Take the names of pretrained weights, which would be fetched, out of a configuration."""
    if isinstance(arguments, (list, tuple)):
        for item in arguments:
            _forget_weights(item)
    elif isinstance(arguments, dict):
        for key, value in arguments.items():
            if key == 'pretrained':
                # Backbones of timm take a truth value, others a path or None.
                arguments[key] = False if isinstance(value, bool) else None
            else:
                _forget_weights(value)
