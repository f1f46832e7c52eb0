"""Timing of code blocks without making the host wait for a GPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LONGEST_QUEUE = 1000


class Stopwatch:
    """Collects the durations of a repeated block and returns their mean when asked.

    On a CUDA device the block is bracketed by events, which are read only by :meth:`take_mean`.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __getstate__(self) -> dict[str, Any]:
        # CUDA events cannot be copied, and a model may be copied at any time (moving averages).
        return {**self.__dict__, '_events': []}

    @contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Time the ``with`` block on ``device``."""
        if len(self._seconds) + len(self._events) >= LONGEST_QUEUE:
            yield
            return
        if device.type == 'cuda':
            begin = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            started = time.perf_counter()
            yield
            self._seconds.append(time.perf_counter() - started)

    def take_mean(self) -> float | None:
        """Return the mean duration in seconds since the last call, or None; waits for the GPU."""
        for begin, end in self._events:
            end.synchronize()
            self._seconds.append(begin.elapsed_time(end) / 1000)
        durations, self._seconds, self._events = self._seconds, [], []
        return sum(durations) / len(durations) if durations else None
