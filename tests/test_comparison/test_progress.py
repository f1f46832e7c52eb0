"""The time left, by a clock that the tests turn."""

import pytest

from mmpfb.comparison.progress import LINE_INTERVAL, Progress

MINUTE = 60.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_pace_of_the_runs_so_far_holds_for_the_rest(clock):
    progress = Progress({'full': 100, 'short': 50, 'old': 80}, clock)
    # It cost nothing now and says nothing about the pace.
    assert progress.ended('old') == 'time left not known yet'
    progress.started('full', 0.0)
    clock.now = 10 * MINUTE
    # A tenth of it in ten minutes: 90 and 50 units are left, a minute each.
    assert progress.advance('full', 0.1) == 'about 2 h 20 min left for the whole comparison'
    clock.now = 50 * MINUTE
    assert progress.ended('full') == 'about 0 h 25 min left for the whole comparison'
    clock.now = 60 * MINUTE
    progress.started('short', 0.0)
    clock.now = 70 * MINUTE
    # 120 units took 60 minutes of training; the pause between the two counts for nothing.
    assert progress.advance('short', 0.4) == 'about 0 h 15 min left for the whole comparison'
    assert progress.ended('short') == 'all runs have ended'


def test_a_line_comes_once_in_a_while(clock):
    progress = Progress({'full': 1}, clock)
    progress.started('full', 0.0)
    told = []
    for clock.now in range(0, 150, 10):
        told.append(progress.advance('full', clock.now / 1000) is not None)
    assert told == [now in (LINE_INTERVAL, 2 * LINE_INTERVAL) for now in range(0, 150, 10)]


def test_what_a_resumed_run_had_done_before_does_not_count(clock):
    progress = Progress({'full': 100}, clock)
    progress.started('full', 0.5)
    clock.now = 10 * MINUTE
    assert progress.advance('full', 0.6).startswith('about 0 h 40 min')


def test_a_run_may_go_on_from_before_its_last_entry(clock):
    progress = Progress({'full': 100}, clock)
    progress.started('full', 0.5)
    # Its checkpoint was older than its log.
    progress.advance('full', 0.4)
    clock.now = 10 * MINUTE
    assert progress.advance('full', 0.5).startswith('about 0 h 50 min')


def test_a_run_that_failed_at_once_did_not_do_all_its_work(clock):
    progress = Progress({'failing': 100, 'full': 100}, clock)
    progress.started('failing', 0.0)
    clock.now = 10 * MINUTE
    assert progress.ended('failing', 0.1).startswith('about 1 h 40 min')
