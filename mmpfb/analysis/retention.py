"""Which images a selector keeps and which it prunes, from the counts of a run."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from statistics import median

from mmpfb.core.checks import check_positive_int


@dataclass(frozen=True)
class RetentionRate:
    """How often one image was retained.

    Attributes:
        name: Path of the image.
        seen: Number of times it was in a pruned batch.
        kept: Number of times it passed the cut.
    """

    name: str
    seen: int
    kept: int

    @property
    def share(self) -> float:
        """Share of the times it was seen that it was kept."""
        return self.kept / self.seen


def extremes(
    record: Mapping[str, Mapping[str, int]], count: int
) -> tuple[list[RetentionRate], list[RetentionRate]]:
    """Return the images most often kept and most often pruned.

    Images seen less often than the median image are left out: a share of one in one says nothing.

    Args:
        record: ``{'seen': int, 'kept': int}`` of each image.
        count: Number of images of either kind; fewer if there are not twice as many.

    Returns:
        The most often kept, highest share first, and the most often pruned, lowest share first.

    Raises:
        ValueError: If ``count`` is no positive integer or the record is empty.
    """
    check_positive_int('count', count)
    rates = [
        RetentionRate(name, entry['seen'], entry['kept'])
        for name, entry in record.items()
        if entry['seen'] > 0
    ]
    if not rates:
        raise ValueError('Expected a record of at least one image, but it holds none.')
    enough = median(rate.seen for rate in rates)
    rates = [rate for rate in rates if rate.seen >= enough]

    def tie_break(rate: RetentionRate) -> tuple[int, int]:
        # Among equal shares the one seen more often is surer. By name alone the first class folder
        # would fill the list after a short run; a checksum mixes the names and is repeatable.
        return -rate.seen, zlib.crc32(rate.name.encode())

    most_kept = sorted(rates, key=lambda rate: (-rate.share, *tie_break(rate)))
    most_pruned = sorted(rates, key=lambda rate: (rate.share, *tie_break(rate)))
    count = max(1, min(count, len(rates) // 2))
    return most_kept[:count], most_pruned[:count]


def by_group(
    record: Mapping[str, Mapping[str, int]], groups: Mapping[str, str]
) -> list[RetentionRate]:
    """Return how often the images of each group were retained, highest share first.

    Args:
        record: ``{'seen': int, 'kept': int}`` of each image.
        groups: Group of each image, by file name without folder.

    Raises:
        ValueError: If an image belongs to no group.
    """

    def group_of(path: str) -> str:
        name = PurePath(path).name
        if name not in groups:
            raise ValueError(f'Expected a group for every image, but {name!r} has none.')
        return groups[name]

    return _sum_up(record, group_of)


def by_folder(record: Mapping[str, Mapping[str, int]]) -> list[RetentionRate]:
    """Return how often the images of each folder were retained, highest share first.

    Args:
        record: ``{'seen': int, 'kept': int}`` of each image; classes are often folders.
    """
    return _sum_up(record, lambda path: PurePath(path).parent.name)


def _sum_up(
    record: Mapping[str, Mapping[str, int]], group_of: Callable[[str], str]
) -> list[RetentionRate]:
    seen: dict[str, int] = {}
    kept: dict[str, int] = {}
    for path, entry in record.items():
        group = group_of(path)
        seen[group] = seen.get(group, 0) + entry['seen']
        kept[group] = kept.get(group, 0) + entry['kept']
    rates = [RetentionRate(group, seen[group], kept[group]) for group in seen if seen[group] > 0]
    return sorted(rates, key=lambda rate: (-rate.share, rate.name))
