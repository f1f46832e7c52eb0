"""How far a comparison is, and how long it will still take."""

import time
from collections.abc import Callable, Hashable, Mapping

LINE_INTERVAL = 60.0


class Progress:
    """Estimates the time until all runs have finished from the pace of those that ran.

    Args:
        work: Amount of work of each run, in any unit.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, work: Mapping[Hashable, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = dict(work)
        self._clock = clock
        self._left = dict(work)
        self._done_here = 0.0
        self._seconds = 0.0
        self._began: float | None = None
        self._at_start = 0.0
        self._last_line = float('-inf')

    def started(self, run: Hashable, share: float) -> None:
        """Note that a run goes on from a share of its work."""
        self._began, self._at_start = self._clock(), share * self._work[run]
        self._left[run] = self._work[run] - self._at_start
        self._last_line = self._began

    def advance(self, run: Hashable, share: float) -> str | None:
        """Note how far a run is; return a line for the user once in a while."""
        now, done = self._clock(), share * self._work[run]
        self._left[run] = self._work[run] - done
        # It went on from a checkpoint that is older than the last entry of its log.
        self._at_start = min(self._at_start, done)
        if self._began is None or now - self._last_line < LINE_INTERVAL:
            return None
        self._last_line = now
        return self._text(done - self._at_start, now - self._began)

    def ended(self, run: Hashable, share: float = 1.0) -> str:
        """Note that a run has ended, a failed one at a share of its work."""
        if self._began is not None:
            self._seconds += self._clock() - self._began
            self._done_here += max(share * self._work[run] - self._at_start, 0.0)
            self._began = None
        self._left[run] = 0.0
        return self._text(0.0, 0.0)

    def _text(self, done_now: float, seconds_now: float) -> str:
        done, seconds = self._done_here + done_now, self._seconds + seconds_now
        left = sum(self._left.values())
        if not left:
            return 'all runs have ended'
        if not done:
            return 'time left not known yet'
        minutes = round(left * seconds / done / 60)
        hours, minutes = divmod(minutes, 60)
        return f'about {hours} h {minutes:02d} min left for the whole comparison'
