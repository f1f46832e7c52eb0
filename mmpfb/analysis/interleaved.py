"""Compares the speed of variants by running them in turn, so that noise hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from mmpfb.core.checks import check_positive_int

Name = TypeVar('Name', bound=Hashable)


@dataclass(frozen=True)
class Comparison:
    """Times of one variant, in seconds, and its saving against another one.

    Attributes:
        median: Median time of a run.
        lowest: Shortest run.
        highest: Longest run.
        saved: Median over the rounds of ``1 - time / time of the other variant in that round``.
    """

    median: float
    lowest: float
    highest: float
    saved: float


def time_in_turn(
    variants: Mapping[Name, Callable[[], object]],
    repeats: int,
    device: torch.device,
    warmup: int = 1,
) -> dict[Name, list[float]]:
    """Run every variant once per round and return its times in seconds, one for each round.

    Args:
        variants: Functions to time.
        repeats: Number of rounds.
        device: Device that the functions keep busy; a GPU is waited for.
        warmup: Rounds that are not counted.

    Raises:
        ValueError: If ``repeats`` is no positive integer or there is no variant.
    """
    check_positive_int('repeats', repeats)
    if not variants:
        raise ValueError('Expected at least one variant, but got none.')
    times: dict[Name, list[float]] = {name: [] for name in variants}
    for index in range(warmup + repeats):
        for name, function in variants.items():
            duration = _time(function, device)
            if index >= warmup:
                times[name].append(duration)
    return times


def mean_of_rounds(
    times: Mapping[Name, Sequence[float]], shares: Mapping[Name, float]
) -> list[float]:
    """Return for each round the mean time of variants of which each is met with a given share.

    Args:
        times: What :func:`time_in_turn` returned.
        shares: Which variants are meant, and how often each of them is met; they add up to 1.

    Example:
        >>> mean_of_rounds({2: [1.0, 2.0], 3: [3.0, 4.0]}, shares={2: 0.75, 3: 0.25})
        [1.5, 2.5]
    """
    chosen = zip(*(times[name] for name in shares), strict=True)
    return [
        sum(share * value for share, value in zip(shares.values(), values, strict=True))
        for values in chosen
    ]


def compare(times: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare the times of a variant with those of another one, round by round.

    Example:
        >>> compare([5.0, 50.0, 3.0], baseline=[10.0, 100.0, 10.0]).saved
        0.5

    Raises:
        ValueError: If the numbers of rounds differ or there is none.
    """
    if not times or len(times) != len(baseline):
        raise ValueError(
            'Expected the same number of rounds, at least one, of both variants, but got '
            f'{len(times)} and {len(baseline)}.'
        )
    return Comparison(
        median=statistics.median(times),
        lowest=min(times),
        highest=max(times),
        saved=statistics.median(
            1 - value / base for value, base in zip(times, baseline, strict=True)
        ),
    )


def _time(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
