"""The structural bounds, against the arithmetic they stand for."""

import pytest

from mmpfb.analysis.saving import modes_by_cost, saving_bound


@pytest.mark.parametrize('ratio', [0.0, 0.3, 0.7])
@pytest.mark.parametrize('share', [0.0, 0.142, 1.0])
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_bounds_count_the_work_of_a_batch(ratio, share, scale):
    images, step = 100, 3.0
    full = images * step
    kept = images * (1 - ratio)
    before, behind = share * step, (1 - share) * step
    reuse = images * before + kept * behind
    rescore = images * before / 3 * scale**2 + kept * step
    assert saving_bound(ratio, share, 'reuse') == pytest.approx(1 - reuse / full)
    assert saving_bound(ratio, share, 'rescore', scale) == pytest.approx(1 - rescore / full)


@pytest.mark.parametrize('ratio', [0.0, 0.05, 0.2, 0.34, 0.9])
@pytest.mark.parametrize('share', [0.1, 0.9])
def test_the_order_of_the_modes_is_that_of_their_bounds(ratio, share):
    order = modes_by_cost(ratio, [0.5, 1.0, 0.25])
    bounds = [saving_bound(ratio, share, *choice) for choice in order]
    assert bounds == sorted(bounds, reverse=True)
    assert len(order) == 4


def test_a_choice_without_scores_costs_nothing():
    assert modes_by_cost(0.01, [1.0], needs_features=False)[0] == ('rescore', 1.0)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r'`ratio` to be in \[0, 1\), but got 1'):
        modes_by_cost(1, [1.0])
    with pytest.raises(ValueError, match=r'`score_scales` to be in \(0, 1\], but got 2'):
        modes_by_cost(0.3, [2])
    with pytest.raises(ValueError, match="`mode` to be one of 'reuse', 'rescore', but got 'auto'"):
        saving_bound(0.3, 0.1, 'auto')
