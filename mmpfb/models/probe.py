"""Finds out, when a model is built, whether its batch can be cut at a place, in either mode.

Some backbones remember the batch size in Python or join branches that left before the cut. They
raise an error or, worse, return maps of a wrong shape. So the features of a small random batch are
computed twice, whole and cut, and compared. A pass that only scores has to reach the place and find
one row per image there.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpfb.core.gate import BatchGate, check_one_row_per_image, tensors_of
from mmpfb.core.pooling import pool_features, stage_tensors
from mmpfb.core.randomness import generator_for
from mmpfb.core.scoring_pass import traceless
from mmpfb.errors import LocationError
from mmpfb.models.locations import candidate_paths
from mmpfb.models.rescore import ScoringPass, first_line, working_scales

BATCH_SIZE = 4
RETAINED = (0, 2, 3)
# Sides of the square probe images: the first is fast, larger ones are for backbones with a large
# stride, and the others for those that take one size alone.
IMAGE_SIZES = (64, 128, 224, 256, 384, 512, 32, 96, 192, 240, 288, 320, 336, 448)
LARGEST_RELATIVE_ERROR = 1e-4


class Stage(NamedTuple):
    """What has to be known about the output of a stage.

    Attributes:
        channels: Number of channels.
        axis: Axis on which a map with four axes has them.
        stride: Pixels of an image per pixel of the map, along one side.
    """

    channels: int
    axis: int
    stride: int


class Probe:
    """Tries out on a small random batch where and how a model can be cut.

    The model is run in evaluation mode and left as it was, random number generators included.

    Args:
        model: Model to be cut.
        encoder: Name of its child that takes images.
        extract: Name of its method that maps images to features, through the whole encoder.
    """

    def __init__(self, model: nn.Module, encoder: str, extract: str) -> None:
        self._model = model
        self._encoder_name = encoder
        self._encoder = model.get_submodule(encoder)
        self._extract_name = extract
        self._extract = getattr(model, extract)
        self._like = next(model.parameters())

    def reuse(self, location: str) -> Stage:
        """Return the stage at a place where one forward pass can be cut.

        Raises:
            LocationError: If there is no such module or the batch cannot be cut there. The message
                lists where it can.
        """
        submodule = self._submodule(location)
        with traceless(self._model, self._like.device):
            images, whole = self._run_whole()
            reason, output = self._try_cut(submodule, images, whole)
            if reason is None:
                return _stage(output, images)
        raise LocationError(
            f'{type(self._encoder).__name__} cannot be cut at {location!r}: {reason}; '
            f'{self.where("reuse")}.'
        )

    def rescore(self, location: str, scale: float) -> tuple[ScoringPass, Stage]:
        """Return the pass that scores images at a place, and the stage there.

        Raises:
            LocationError: If there is no such module or images cannot be scored there. The message
                lists where they can.
            ValueError: If the model takes no images of that scale.
        """
        self._submodule(location)
        with traceless(self._model, self._like.device):
            images, _ = self._run_whole()
            reason, output = self._try_scoring(location, images)
            if reason is None:
                return self._scaled_pass(location, scale, images), _stage(output, images)
        raise LocationError(
            f'{type(self._encoder).__name__} cannot be scored at {location!r}: {reason}; '
            f'{self.where("rescore")}.'
        )

    def where(self, mode: str) -> str:
        """Return a clause that tells where the model can be cut, for error messages."""
        with traceless(self._model, self._like.device):
            images, whole = self._run_whole()
            places = candidate_paths(self._model, self._encoder_name)
            cuttable = [
                path
                for path in (places if mode == 'reuse' else [])
                if self._try_cut(self._model.get_submodule(path), images, whole)[0] is None
            ]
            if cuttable:
                return f'it can be cut at: {", ".join(cuttable)}'
            scored = [path for path in places if self._try_scoring(path, images)[0] is None]
        other = f"mode='rescore' works at: {', '.join(scored)}" if scored else ''
        if mode == 'reuse':
            return f'none of its stages allows it{"; " + other if scored else ""}'
        return other or 'no place was found where it can be'

    def _submodule(self, location: str) -> nn.Module:
        try:
            if location:
                return self._model.get_submodule(location)
        except AttributeError:
            pass
        raise LocationError(
            f"Expected argument `location` to be 'auto' or a module path such as "
            f'{", ".join(candidate_paths(self._model, self._encoder_name))}, but got {location!r}.'
        )

    def _run_whole(self) -> tuple[Tensor, Any]:
        error: Exception | None = None
        for size in self._image_sizes():
            images = self._images(size)
            try:
                return images, self._extract(images)
            except Exception as caught:  # noqa: BLE001 - which error tells a wrong size is unknowable
                error = error or caught
        assert error is not None
        raise LocationError(
            f'The features of {type(self._encoder).__name__} could not be computed for square '
            f'images of {self._image_sizes()} pixels, so no cut could be tested; the first error: '
            f'{first_line(error)}'
        ) from error

    def _image_sizes(self) -> list[int]:
        """Return the sides to try: a small one, those that the encoder names, and usual ones."""
        named = [getattr(module, 'img_size', None) for module in self._encoder.modules()]
        sides = [size[0] if isinstance(size, (list, tuple)) else size for size in named]
        known = [side for side in sides if isinstance(side, int)]
        return list(dict.fromkeys([IMAGE_SIZES[0], *known, *IMAGE_SIZES[1:]]))

    def _images(self, size: int) -> Tensor:
        channels = _num_image_channels(self._encoder)
        generator = generator_for(BATCH_SIZE)
        images = torch.rand(BATCH_SIZE, channels, size, size, generator=generator)
        # Images that differ strongly: features of the wrong image must not pass as rounding.
        images = images * torch.arange(1, BATCH_SIZE + 1).view(-1, 1, 1, 1)
        return images.to(self._like)

    def _try_cut(
        self, submodule: nn.Module, images: Tensor, whole: Any
    ) -> tuple[str | None, Any]:
        """Return why the batch cannot be cut (None if it can) and the whole output at the cut."""
        keep = torch.tensor(RETAINED, device=images.device)
        stage_output = None

        def decide(output: Any) -> Tensor:
            nonlocal stage_output
            pool_features(output, dim=None)
            stage_output = output
            return keep

        gate = BatchGate(submodule, self._encoder)
        try:
            with gate.open(len(images), decide):
                cut = self._extract(images)
        except LocationError as error:
            return str(error).partition(';')[0], None
        except Exception as error:  # noqa: BLE001 - any failure of the cut model is the answer
            return f'the forward pass fails ({first_line(error)})', None
        finally:
            gate.remove()
        if not _equal_rows(cut, whole, keep):
            return 'the features of the retained images come out wrong', None
        return None, stage_output

    def _try_scoring(self, location: str, images: Tensor) -> tuple[str | None, Any]:
        """Return why images cannot be scored (None if they can) and the output at the place."""
        scoring = self._pass(location, 1.0)
        keep = torch.tensor(RETAINED, device=images.device)
        try:
            output = scoring.output(self._model, images)
            check_one_row_per_image(output, len(images))
            features = pool_features(output, None)
            some = pool_features(scoring.output(self._model, images[keep]), None)
        except LocationError as error:
            return str(error).partition(';')[0], None
        except Exception as error:  # noqa: BLE001 - any failure of the pass is the answer
            return f'the forward pass fails ({first_line(error)})', None
        if not _equal_rows(some, features, keep):
            return 'the features of an image depend on other images', None
        return None, output

    def _scaled_pass(self, location: str, scale: float, images: Tensor) -> ScoringPass:
        scoring = self._pass(location, scale)
        try:
            scoring.output(self._model, images)
            return scoring
        except Exception as caught:  # noqa: BLE001 - any failure of the pass is the answer
            error = caught
        for size in self._image_sizes():
            try:
                # A network of one size takes scaled images of other sizes, which it never gets.
                self._extract(self._images(size))
                scoring.output(self._model, self._images(size))
                return scoring
            except Exception:  # noqa: BLE001 - as above
                continue
        raise ValueError(
            f'Expected a `score_scale` at which {type(self._encoder).__name__} takes images, but '
            f'got {scale:g} ({first_line(error)}); values that work: '
            f'{working_scales(scoring, self._model, images)}.'
        ) from error

    def _pass(self, location: str, scale: float) -> ScoringPass:
        return ScoringPass(location, self._encoder_name, self._extract_name, scale)


def _num_image_channels(encoder: nn.Module) -> int:
    # The attribute `in_channels` of some backbones is a counter that ends at their last layer.
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _stage(output: Any, images: Tensor) -> Stage:
    shape = stage_tensors(output)[0].shape
    # The probe images are square, so the two axes of equal length are those of space. Backbones of
    # timm put the channels last; with three equal lengths the usual order is taken.
    axis = 3 if len(shape) == 4 and shape[1] == shape[2] != shape[3] else 1
    side = images.shape[-1]
    if len(shape) == 4:
        side = shape[2]
    elif len(shape) == 3:
        # Tokens, of an image that is square.
        side = math.isqrt(shape[1])
    channels = pool_features(output, None, axis).shape[1]
    return Stage(channels, axis, max(1, images.shape[-1] // side))


def _equal_rows(cut: Any, whole: Any, keep: Tensor) -> bool:
    got, expected = list(tensors_of(cut)), list(tensors_of(whole))
    if len(got) != len(expected):
        return False
    for left, right in zip(got, expected, strict=True):
        right = right.index_select(0, keep) if right.shape[0] == BATCH_SIZE else right
        if left.shape != right.shape:
            return False
        if left.is_meta:
            continue
        tolerance = LARGEST_RELATIVE_ERROR * float(right.abs().nan_to_num().max())
        if not torch.allclose(left, right, rtol=0, atol=tolerance + 1e-12, equal_nan=True):
            return False
    return True
