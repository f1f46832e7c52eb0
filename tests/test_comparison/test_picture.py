"""The picture of a comparison."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmpfb.analysis.comparison import MethodRow
from mmpfb.comparison.picture import draw

FULL = MethodRow('full', 'Full training', 2, (), metric=60.0, deviation=1.5, flops=8e12,
                 images_trained=800)
PFB = MethodRow('pfb', 'PFB', 2, (), metric=58.0, deviation=0.5, flops=5e12, images_trained=450)
SHORT = MethodRow('short', 'Shorter schedule', 1, (), metric=57.0, flops=None, images_trained=450)
FAILED = MethodRow('ucb', 'UCB', 0, ('seed 0, exit status 1',))
WAITING = MethodRow('divbs', 'DivBS', 0, (), ('seed 0, iteration 3 of 9',))


@pytest.fixture
def axes(monkeypatch, tmp_path):
    """Draw and return the axes."""

    def show(*rows):
        figures, save = [], Figure.savefig

        def note(figure, *args, **kwargs):
            figures.append(figure)
            return save(figure, *args, **kwargs)

        monkeypatch.setattr(Figure, 'savefig', note)
        draw(rows, 'mIoU', tmp_path / 'picture.png')
        assert Image.open(tmp_path / 'picture.png').size == (975, 624)
        return figures[0].axes[0]

    return show


def points(axes):
    return [tuple(bars[0].get_xydata()[0]) for bars in axes.containers]


def test_a_point_per_method_with_its_deviation(axes):
    drawn = axes(FULL, FAILED, PFB, WAITING)
    assert points(drawn) == [(8e12, 60), (5e12, 58)]
    spread = [bars[2][0].get_segments()[0][:, 1].tolist() for bars in drawn.containers]
    assert spread == [[58.5, 61.5], [57.5, 58.5]]
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ('training FLOPs', 'mIoU')
    assert drawn.get_title() == 'Mean and standard deviation over 2 seeds'
    # Whatever has no point is named.
    words = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert sorted(words) == ['DivBS (not finished)', 'Full training', 'PFB', 'UCB (failed)']


def test_images_where_operations_are_not_known_of_all(axes):
    drawn = axes(FULL, SHORT)
    assert points(drawn) == [(800, 60), (450, 57)]
    assert drawn.get_xlabel() == 'images trained on'
    assert drawn.get_title().endswith('over 1 to 2 seeds')
    assert axes(SHORT).get_title().endswith('one seed (no deviation)')


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match='Expected a finished run to draw'):
        draw([FAILED, WAITING], 'mIoU', tmp_path / 'picture.png')
