"""Compares the speed of variants by running them in turn, so that noise hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mmpfb.core.checks import check_positive_int


@dataclass(frozen=True)
class Comparison:
    """Times of one variant, in seconds, and its saving against the first variant.

    Attributes:
        median: Median time of a run.
        lowest: Shortest run.
        highest: Longest run.
        saved: Median over the rounds of ``1 - time / time of the first variant in that round``.
    """

    median: float
    lowest: float
    highest: float
    saved: float


def compare_interleaved(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    warmup: int = 1,
) -> dict[str, Comparison]:
    """Run every variant once per round and compare each with the first one of its round.

    Args:
        variants: Functions to time; the first is the baseline.
        repeats: Number of rounds.
        device: Device that the functions keep busy; a GPU is waited for.
        warmup: Rounds that are not counted.

    Raises:
        ValueError: If ``repeats`` is no positive integer or there is no variant.
    """
    check_positive_int('repeats', repeats)
    if not variants:
        raise ValueError('Expected at least one variant, but got none.')
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(warmup + repeats):
        for name, function in variants.items():
            duration = _time(function, device)
            if index >= warmup:
                times[name].append(duration)
    baseline = next(iter(times.values()))
    return {
        name: Comparison(
            median=statistics.median(values),
            lowest=min(values),
            highest=max(values),
            saved=statistics.median(
                1 - value / base for value, base in zip(values, baseline, strict=True)
            ),
        )
        for name, values in times.items()
    }


def _time(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
