"""Tell and plot how far cheaper scoring passes agree with the scores of a run."""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402 - the backend has to be chosen first

RECORD_FILE = 'score_agreement.json'
PARTS = ('first third', 'second third', 'last third')
# Single batches are noisy; a point of the plot is the mean of so many of them.
POINTS = 40


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'work_dirs', type=Path, nargs='+', help='work dirs of runs with mmpfb.ScoreAgreementHook'
    )
    parser.add_argument(
        '--labels', nargs='+', help='one name per work dir for the titles (default: the folder)'
    )
    parser.add_argument(
        '--out', type=Path, help='picture (default: score_agreement.png in the first work dir)'
    )
    return parser


def read_record(work_dir: Path) -> list[dict[str, Any]]:
    """Return the entries of a run, one per pruned iteration.

    Raises:
        ValueError: If there are none.
    """
    path = work_dir / RECORD_FILE
    record = json.loads(path.read_text()) if path.is_file() else []
    if not record:
        raise ValueError(
            f'Expected {path} to hold pruned iterations, but found none: train with '
            'default_hooks.score_agreement.type=mmpfb.ScoreAgreementHook and pruning by PFB.'
        )
    return record


def scales_of(record: list[dict[str, Any]]) -> list[str]:
    """Return the scales of a record, the largest first."""
    names = set(record[0]) - {'iteration', 'seen', 'kept', 'reuse'}
    return sorted(names, key=float, reverse=True)


def mean_of(record: list[dict[str, Any]], scale: str, measure: str) -> float:
    """Return the mean of a measure; iterations without a value do not count."""
    values = [entry[scale][measure] for entry in record]
    values = [value for value in values if not math.isnan(value)]
    return fmean(values) if values else math.nan


def in_parts(record: list[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """Split a record into parts of nearly equal length, in order; none is empty."""
    count = min(count, len(record))
    edges = [round(index * len(record) / count) for index in range(count + 1)]
    return [record[begin:end] for begin, end in zip(edges[:-1], edges[1:], strict=True)]


def print_table(label: str, record: list[dict[str, Any]]) -> None:
    """Print means over the run and its thirds."""
    chance = fmean(entry['kept'] / entry['seen'] for entry in record)
    print(f'{label}: {len(record)} pruned iterations')
    print(f'  independent random choices overlap by {chance:.1%}')
    print('  (what is kept shares the random numbers of the run, "by density" does not)')
    parts = {'whole run': record, **dict(zip(PARTS, in_parts(record, len(PARTS)), strict=False))}
    titles = f'{"same kept":>10} {"by density":>11} {"rank correlation":>17}'
    print(f'  {"scale":>6} {"":>13} {titles}')
    for scale in scales_of(record):
        for name, part in parts.items():
            print(
                f'  {scale:>6} {name:>13} {mean_of(part, scale, "overlap"):>10.1%} '
                f'{mean_of(part, scale, "density_overlap"):>11.1%} '
                f'{mean_of(part, scale, "rank_correlation"):>17.3f}'
            )


def draw(records: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw both measures over the iterations, one row per run."""
    figure, rows = plt.subplots(
        len(records), 2, figsize=(8.4, 2.9 * len(records)), layout='constrained', squeeze=False
    )
    styles = ('-', '--', ':', '-.')
    for (left, right), (label, record) in zip(rows, records.items(), strict=True):
        parts = in_parts(record, POINTS)
        iterations = [fmean(entry['iteration'] for entry in part) for part in parts]
        for index, scale in enumerate(scales_of(record)):
            for axes, measure, factor in (
                (left, 'density_overlap', 100),
                (right, 'rank_correlation', 1),
            ):
                values = [factor * mean_of(part, scale, measure) for part in parts]
                style = styles[index % len(styles)]
                axes.plot(iterations, values, style, label=f'scale {scale}')
        chance = 100 * fmean(entry['kept'] / entry['seen'] for entry in record)
        left.axhline(chance, color='grey', linewidth=0.8)
        left.annotate('chance', (iterations[-1], chance), ha='right', va='bottom', color='grey')
        left.set(xlabel='iteration', ylabel='same rarest images (%)', ylim=(0, 102), title=label)
        right.set(xlabel='iteration', ylabel='rank correlation of densities', ylim=(-0.35, 1.02))
        for axes in (left, right):
            axes.grid(alpha=0.3)
        right.legend(loc='lower right')
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the records, print the tables and draw the picture."""
    parser = build_parser()
    args = parser.parse_args()
    labels = args.labels or [path.name for path in args.work_dirs]
    if len(labels) != len(args.work_dirs):
        parser.error(
            f'Expected one of --labels for each of {len(args.work_dirs)} work dirs, but got '
            f'{len(labels)}.'
        )
    try:
        records = {
            label: read_record(path) for label, path in zip(labels, args.work_dirs, strict=True)
        }
    except ValueError as error:
        parser.error(str(error))
    for label, record in records.items():
        print_table(label, record)
    out = args.out or args.work_dirs[0] / 'score_agreement.png'
    draw(records, out)
    print(f'agreement over training: {out}')


if __name__ == '__main__':
    main()
