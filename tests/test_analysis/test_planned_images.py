"""The images of a run that prunes, by hand."""

import pytest

from mmpfb.analysis.planned_images import planned_images
from mmpfb.core.schedule import PruningWindow


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        # Two whole batches, five halves, three whole ones.
        (dict(iterations=10, batch_size=8, window=PruningWindow(2, 7), ratio=0.5), 5 * 8 + 5 * 4),
        # 2 * 0.7 = 1.4 of two images: 1, 1, 2, 1, 2 are retained.
        (dict(iterations=5, batch_size=2, window=PruningWindow(0, 5), ratio=0.3), 7),
        # Never fewer than three of four.
        (dict(iterations=4, batch_size=4, window=PruningWindow(0, 2), ratio=0.5, min_keep=3),
         3 + 3 + 4 + 4),
        # The ratio rises 0, 0.25, and then is 0.5.
        (dict(iterations=5, batch_size=8, window=PruningWindow(0, 4), ratio=0.5, ramp=0.5),
         8 + 6 + 4 + 4 + 8),
        # It rises 0.25, 0.375.
        (dict(iterations=4, batch_size=8, window=PruningWindow(0, 4), ratio=0.5, ramp=0.5,
              ramp_from=0.5), 6 + 5 + 4 + 4),
        (dict(iterations=3, batch_size=8, window=PruningWindow(0, 3), ratio=0.0), 24),
    ],
)
def test_images_by_hand(arguments, expected):
    assert planned_images(**arguments) == expected
