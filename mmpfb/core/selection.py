"""The decision of a selector: which images of a batch are retained."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """What a selector decided about one batch; somebody else carries it out.

    Attributes:
        keep: Indices of the retained images in ascending order, int64 of shape ``(k,)``.
        weight: Loss weight of each retained image, shape ``(k,)``; None means all equal.
        score: Score of every image of the batch, shape ``(B,)``; None if nothing was scored.
        stats: Scalar tensors worth logging, left on the device of the features.
    """

    keep: Tensor
    weight: Tensor | None = None
    score: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
