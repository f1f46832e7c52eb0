"""The methods of the samplers as loops over Python numbers, written from their formulas.

A score is a float or None, which stands for an image without a finite loss.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction


def retained(num_images: int, ratio: Fraction) -> int:
    return num_images - math.floor(ratio * num_images)


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two closest values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    if below + 1 == len(ordered):
        return ordered[below]
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def low_images(scores: Sequence[float | None], threshold: str | float) -> list[int]:
    """The set L of InfoBatch."""
    known = [score for score in scores if score is not None]
    if not known:
        return []
    if threshold == 'mean':
        limit = math.fsum(known) / len(known)
    else:
        limit = percentile(known, threshold)
    return [
        image for image, score in enumerate(scores) if score is not None and score < limit
    ]


def moving_averages(
    losses: Iterable[float], alpha: float
) -> tuple[float | None, float | None]:
    """Mean and variance after the losses of one image; one that is not finite starts anew."""
    mean = variance = None
    for loss in losses:
        if not math.isfinite(loss):
            mean = variance = None
        elif mean is None:
            mean, variance = loss, 0.0
        else:
            variance = (1 - alpha) * variance + alpha * (loss - mean) ** 2
            mean = (1 - alpha) * mean + alpha * loss
    return mean, variance


def largest(scores: Sequence[float | None], count: int) -> list[int]:
    """Images with the largest scores, without a score first, ties by number."""
    def place(image: int) -> tuple[float, int]:
        score = scores[image]
        return (-math.inf if score is None else -score, image)

    return sorted(range(len(scores)), key=place)[:count]
