"""Images most often kept and most often pruned."""

import pytest

from mmpfb.analysis.retention import by_folder, by_group, extremes


def record(**counts):
    return {name: {'seen': seen, 'kept': kept} for name, (seen, kept) in counts.items()}


def test_extremes_are_ordered_by_share():
    kept, pruned = extremes(record(a=(4, 4), b=(4, 1), c=(4, 3), d=(4, 0)), count=2)
    assert [rate.name for rate in kept] == ['a', 'c']
    assert [rate.name for rate in pruned] == ['d', 'b']
    assert kept[1].share == 0.75


def test_images_seen_rarely_are_left_out():
    kept, _ = extremes(record(once=(1, 1), b=(9, 8), c=(9, 1), d=(9, 5)), count=1)
    assert [rate.name for rate in kept] == ['b']


def test_no_image_is_in_both_groups():
    kept, pruned = extremes(record(a=(3, 3), b=(3, 2), c=(3, 1)), count=12)
    assert {rate.name for rate in kept}.isdisjoint(rate.name for rate in pruned)


def test_equal_shares_are_ordered_by_certainty():
    kept, _ = extremes(record(b=(5, 5), a=(5, 5), c=(9, 9), d=(5, 0)), count=2)
    assert kept[0].name == 'c'
    assert kept[1].name in ('a', 'b')


def test_equal_shares_come_from_all_folders_in_a_repeatable_order():
    counts = {f'{folder}/{index:04d}.jpg': {'seen': 2, 'kept': 2}
              for folder in ('airplane', 'cat', 'truck') for index in range(50)}
    kept, pruned = extremes(counts, count=12)
    assert {rate.name.split('/')[0] for rate in kept} == {'airplane', 'cat', 'truck'}
    assert extremes(dict(reversed(counts.items())), count=12) == (kept, pruned)


def test_folders_are_groups():
    counts = {'train/cat/0.jpg': (4, 4), 'train/cat/1.jpg': (4, 2), 'train/dog/0.jpg': (10, 1)}
    rates = by_folder(
        {name: {'seen': seen, 'kept': kept} for name, (seen, kept) in counts.items()}
    )
    assert [(rate.name, rate.seen, rate.kept) for rate in rates] == [('cat', 8, 6), ('dog', 10, 1)]


def test_empty_record_and_wrong_count_are_refused():
    with pytest.raises(ValueError, match='at least one image, but it holds none'):
        extremes({}, count=3)
    with pytest.raises(ValueError, match='`count` to be an integer of at least 1, but got 0'):
        extremes(record(a=(1, 1)), count=0)


def test_groups_are_summed_up_by_file_name():
    counts = {'x/a.jpg': (4, 4), 'y/b.jpg': (4, 2), 'x/c.jpg': (10, 1)}
    rates = by_group(
        {name: {'seen': seen, 'kept': kept} for name, (seen, kept) in counts.items()},
        {'a.jpg': 'night', 'b.jpg': 'night', 'c.jpg': 'day', 'unused.jpg': 'fog'},
    )
    assert [(rate.name, rate.seen, rate.kept) for rate in rates] == [
        ('night', 8, 6), ('day', 10, 1),
    ]


def test_an_image_without_a_group_is_refused():
    with pytest.raises(ValueError, match="group for every image, but 'a' has none"):
        by_group(record(a=(1, 1)), {})
