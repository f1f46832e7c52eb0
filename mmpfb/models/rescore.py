"""``mode='rescore'``: a cheap pass chooses the images, then comes the ordinary step."""

from collections.abc import Callable
from logging import WARNING
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmpfb.core.gate import check_one_row_per_image, take_rows
from mmpfb.core.scoring_pass import downscale, output_at, scaled_size, traceless
from mmpfb.errors import LocationError
from mmpfb.models.reuse import Decide

USUAL_SCALES = (1.0, 0.75, 0.5, 0.25)
SHARDED = ('FullyShardedDataParallel', 'FSDPModule')


class ScoringPass:
    """Runs a model up to the place where its images are scored, without leaving a trace in it.

    Args:
        location: Module path of the place.
        encoder: Name of the child of the model that takes images, ``'backbone'`` for most.
        extract: Name of the method that maps images to features, for a place behind the encoder.
        scale: Factor on both sides of the images, in (0, 1].
    """

    def __init__(self, location: str, encoder: str, extract: str, scale: float) -> None:
        self.location = location
        self.encoder = encoder
        self.extract = extract
        self.scale = scale

    def output(self, model: nn.Module, images: Tensor) -> Any:
        """Return the output at the location for images of shape ``(B, C, H, W)``.

        Raises:
            LocationError: If the pass cannot end there.
        """
        cut = model.get_submodule(self.location)
        if self.location.startswith(f'{self.encoder}.'):
            owner = self.encoder
            # Not called as a module: hooks on the encoder would see its pass begin and not end.
            forward = model.get_submodule(owner).forward
        else:
            owner, forward = '', getattr(model, self.extract)
        enclosing = _enclosing(model, owner, self.location)
        # Of the encoder alone where that is enough: the flags are walked through in every step.
        with traceless(model.get_submodule(owner), images.device):
            return output_at(cut, lambda: forward(downscale(images, self.scale)), enclosing)


class Rescore:
    """Scores all images in a pass without gradients, then trains on the retained ones.

    Args:
        scoring: The pass.
        stride: Pixels of an image per pixel of the map at the location, along one side.
        needs_features: Whether the choice depends on the images; if not, no pass is made.
        scale_is_free: Whether images that are too small for the scale are scored at full scale from
            then on, with a warning; if not, they are refused.
    """

    def __init__(
        self, scoring: ScoringPass, stride: int, needs_features: bool, scale_is_free: bool = False
    ) -> None:
        self.scoring = scoring
        self.stride = stride
        self.needs_features = needs_features
        self.scale_is_free = scale_is_free

    @property
    def score_scale(self) -> float:
        """Factor on both sides of the images that are scored."""
        return self.scoring.scale

    def loss(
        self,
        model: nn.Module,
        stock_loss: Callable[[Tensor], Any],
        images: Tensor,
        decide: Decide,
    ) -> Any:
        """Return the stock loss of the retained images; see :meth:`Reuse.loss`.

        Raises:
            ValueError: If the model cannot score images of this size at this scale.
        """
        keep = decide(self._score(model, images) if self.needs_features else images)
        return stock_loss(images if keep is None else take_rows(images, keep, len(images)))

    # A compiler cannot follow a pass that ends early; what is compiled is the step behind it.
    @torch._dynamo.disable
    def _score(self, model: nn.Module, images: Tensor) -> Any:
        if self.score_scale != 1:
            try:
                output = self._score_downscaled(model, images)
            except LocationError:
                raise
            except ValueError as error:
                if not self.scale_is_free:
                    raise
                print_log(f'{error} All images are scored at full scale.', 'current', WARNING)
                self.scoring.scale = 1.0
        if self.score_scale == 1:
            output = self.scoring.output(model, images)
        check_one_row_per_image(output, len(images))
        return output

    def _score_downscaled(self, model: nn.Module, images: Tensor) -> Any:
        self._check_size(images)
        try:
            return self.scoring.output(model, images)
        except LocationError:
            raise
        except Exception as error:
            raise self._refusal(model, images, error) from error

    def _check_size(self, images: Tensor) -> None:
        size = scaled_size(images.shape[-2:], self.scoring.scale)
        if min(size) < self.stride:
            smallest = min(images.shape[-2:])
            raise ValueError(
                f'Expected images that score_scale={self.scoring.scale:g} leaves at least as large '
                f'as the stride {self.stride} at {self.scoring.location!r}, but images of '
                f'{_text(images.shape[-2:])} become {_text(size)}; use a `score_scale` of at least '
                f'{self.stride / smallest:.2g}.'
            )

    def _refusal(self, model: nn.Module, images: Tensor, error: Exception) -> ValueError:
        working = working_scales(self.scoring, model, images)
        return ValueError(
            f'Images of {_text(images.shape[-2:])} cannot be scored with score_scale='
            f'{self.scoring.scale:g} ({first_line(error)}); values that work: {working}.'
        )


def working_scales(scoring: ScoringPass, model: nn.Module, images: Tensor) -> str:
    """Return which of some usual scales a model takes for images of one size, as text."""
    working = [scale for scale in USUAL_SCALES if _works(scoring, model, images, scale)]
    return ', '.join(f'{scale:g}' for scale in working) or 'none'


def _works(scoring: ScoringPass, model: nn.Module, images: Tensor, scale: float) -> bool:
    other = ScoringPass(scoring.location, scoring.encoder, scoring.extract, scale)
    try:
        other.output(model, images)
    except Exception:  # noqa: BLE001 - whether it fails is the question
        return False
    return True


def _enclosing(model: nn.Module, owner: str, location: str) -> list[nn.Module]:
    """Return the modules between the one that runs the pass and the place of the cut.

    Raises:
        LocationError: If the weights of one of them are spread over several devices.
    """
    path, parts = owner, location[len(owner) :].strip('.').split('.')
    modules = []
    for part in parts[:-1]:
        path = f'{path}.{part}' if path else part
        modules.append(model.get_submodule(path))
    for module in [model.get_submodule(owner), *modules]:
        if {base.__name__ for base in type(module).__mro__} & set(SHARDED):
            raise LocationError(
                f"mode='rescore' cannot end a pass inside of {type(module).__name__}, whose hooks "
                "have to put its weights together and away again; use mode='reuse'."
            )
    return modules


def _text(size: Any) -> str:
    return 'x'.join(map(str, size))


def first_line(error: Exception) -> str:
    """Return what an error says, without what follows its first line."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip('.')
