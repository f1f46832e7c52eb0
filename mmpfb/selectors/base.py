"""What every in-batch selector offers, and how a configuration finds one by name."""

import enum
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpfb.core.selection import Selection
from mmpfb.errors import EstimatorStateError

_SELECTORS: dict[str, type['Selector']] = {}


class Needs(enum.Enum):
    """What a selector has to know about the images of a batch, and so what a choice costs."""

    NOTHING = 'nothing'
    """No image is looked at."""
    FEATURES = 'features'
    """Pooled features of shape ``(B, D)``: the network up to the stage of the cut."""
    LOSSES = 'losses'
    """Losses of shape ``(B, 1)``: a forward pass through the whole network and its loss."""
    GRADIENTS = 'gradients'
    """Inner products of the last layer's gradients, ``(B, B)``: that pass, and a step back."""

    @property
    def whole_network(self) -> bool:
        """Whether a pass through the whole network is needed, not only up to the cut."""
        return self in (Needs.LOSSES, Needs.GRADIENTS)


class Selector(ABC):
    """Chooses the retained images of a batch; what to do with the choice is not its business.

    A selector sees what it needs to know of the images and draws random numbers from a generator
    that it is given. It holds no module and no device: its state follows what it sees.

    Attributes:
        needs: What it has to know about the images.
        dim: Largest number of channels of the pooled features it wants; None means all.
    """

    needs: ClassVar[Needs] = Needs.FEATURES
    dim: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the selector has seen enough to choose."""
        return True

    @property
    def num_images_missing(self) -> int:
        """Number of images that the selector still has to observe before it is ready."""
        return 0

    def prepare(self, num_channels: int) -> str | None:
        """Get ready for a stage with ``num_channels``; called once, when a model is built.

        Returns:
            A sentence that the user should read, or None.
        """
        return None

    def observe(self, features: Tensor) -> None:
        """Learn from the images that the model is trained on, features of shape ``(B, D)``."""

    @abstractmethod
    def select(
        self, features: Tensor, num_retained: int, generator: torch.Generator
    ) -> Selection:
        """Choose the retained images of a batch.

        Args:
            features: What :attr:`needs` asks for, a row for each image; ``(B, 0)`` for nothing.
            num_retained: Number of images to retain, from 1 to ``B``.
            generator: CPU generator for everything random.

        Returns:
            A selection of exactly ``num_retained`` images.
        """

    def metrics(self) -> Mapping[str, Tensor]:
        """Return scalar tensors about the state that are worth logging."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if state:
            raise EstimatorStateError(
                f'Expected an empty state for {type(self).__name__}, but got {sorted(state)}.'
            )


def register_selector(selector: type[Selector]) -> type[Selector]:
    """Make a selector available as ``selector=dict(type='<class name>')``; a class decorator.

    Raises:
        ValueError: If the name is taken by another class.
    """
    name = selector.__name__
    if _SELECTORS.setdefault(name, selector) is not selector:
        raise ValueError(f'Expected a new selector name, but {name!r} is registered already.')
    return selector


def build_selector(config: Mapping[str, Any]) -> Selector:
    """Build a selector from ``dict(type=name, **arguments)``.

    Example:
        >>> from mmpfb.selectors import build_selector
        >>> build_selector(dict(type='PFB', num_centroids=32)).num_centroids
        32

    Raises:
        ValueError: If the type is missing or unknown, or an argument is unknown or out of range.
    """
    arguments = dict(config)
    name = arguments.pop('type', None)
    if not isinstance(name, str) or name not in _SELECTORS:
        raise ValueError(
            f'Expected the selector `type` to be one of {sorted(_SELECTORS)}, but got {name!r}.'
        )
    build: Callable[..., Selector] = _SELECTORS[name]
    known = list(inspect.signature(build).parameters)
    unknown = sorted(arguments.keys() - set(known))
    if unknown:
        raise ValueError(
            f'Expected the arguments of selector {name!r} to be among {known}, but got {unknown}.'
        )
    return build(**arguments)
