import time

import pytest
import torch

from mmpfb.analysis import Stopwatch
from mmpfb.analysis.timing import LONGEST_QUEUE

CPU = torch.device('cpu')
CUDA = torch.device('cuda')


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""

    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

    fake = Clock()
    monkeypatch.setattr('mmpfb.analysis.timing.time', fake)
    return fake


@pytest.fixture
def events(monkeypatch):
    """CUDA events without a GPU; the n-th event happens at n times n milliseconds."""
    log = []

    class Event:
        count = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.number = Event.count = Event.count + 1

        def record(self) -> None:
            log.append(('record', self.number))

        def synchronize(self) -> None:
            log.append(('synchronize', self.number))

        def elapsed_time(self, end: 'Event') -> float:
            assert ('synchronize', end.number) in log
            return float(end.number**2 - self.number**2)

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    return log


def test_the_mean_of_the_blocks_is_returned_and_forgotten(clock):
    stopwatch = Stopwatch()
    for duration in (1.0, 2.0, 6.0):
        with stopwatch.measure(CPU):
            clock.now += duration
        clock.now += 50
    assert stopwatch.take_mean() == pytest.approx(3.0)
    assert stopwatch.take_mean() is None
    with stopwatch.measure(CPU):
        clock.now += 4.0
    assert stopwatch.take_mean() == pytest.approx(4.0)


def test_nothing_measured_is_none():
    assert Stopwatch().take_mean() is None


def test_the_real_clock_is_in_seconds():
    stopwatch = Stopwatch()
    with stopwatch.measure(CPU):
        time.sleep(0.02)
    assert 0.02 <= stopwatch.take_mean() < 2


def test_a_gpu_is_not_waited_for_before_the_mean_is_taken(events):
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch.measure(CUDA):
            events.append(('block',))
    assert [item[0] for item in events] == ['record', 'block', 'record'] * 2
    # 2^2 - 1^2 and 4^2 - 3^2 milliseconds.
    assert stopwatch.take_mean() == pytest.approx(0.005)
    assert ('synchronize', 2) in events and ('synchronize', 4) in events
    assert stopwatch.take_mean() is None


@pytest.mark.parametrize('device', [CPU, CUDA])
def test_a_queue_that_nobody_reads_stays_bounded(clock, events, device):
    stopwatch = Stopwatch()
    ran = 0
    for _ in range(LONGEST_QUEUE + 5):
        with stopwatch.measure(device):
            ran += 1
    assert ran == LONGEST_QUEUE + 5
    assert len(stopwatch._seconds) + len(stopwatch._events) == LONGEST_QUEUE
    stopwatch.take_mean()
    with stopwatch.measure(CPU):
        clock.now += 7.0
    assert stopwatch.take_mean() == pytest.approx(7.0)


def test_an_error_in_the_block_is_passed_on_and_not_timed(clock):
    stopwatch = Stopwatch()
    with pytest.raises(KeyError, match='inside'):
        with stopwatch.measure(CPU):
            clock.now += 5.0
            raise KeyError('inside')
    assert stopwatch.take_mean() is None


def test_a_copy_leaves_pending_events_behind(events):
    import copy

    stopwatch = Stopwatch()
    with stopwatch.measure(CUDA):
        pass
    stopwatch._events[0][0].__deepcopy__ = None  # like a real event, it cannot be copied
    assert copy.deepcopy(stopwatch).take_mean() is None
    assert stopwatch.take_mean() is not None
