"""Plot over training which part of the retained images density alone would not have retained."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402 - the backend has to be chosen first

SHARE = 'pruning/random_share'
RATIO = 'pruning/ratio'


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'work_dirs', type=Path, nargs='+', help='work dirs of runs with a selector that scores'
    )
    parser.add_argument(
        '--labels', nargs='+', help='one name per work dir for the legend (default: the folder)'
    )
    parser.add_argument(
        '--out', type=Path, help='picture (default: random_share.png in the first work dir)'
    )
    return parser


def read_curve(work_dir: Path) -> tuple[list[int], list[float]]:
    """Return the iterations of a run at which images were pruned, and the random share there.

    A run that was resumed has several logs; where they overlap the newest counts.

    Raises:
        ValueError: If the run logged no random share.
    """
    curve = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if SHARE in entry and entry.get(RATIO, 0) > 0:
                curve[entry['step']] = entry[SHARE]
    if not curve:
        raise ValueError(
            f'Expected {work_dir} to hold logs with {SHARE}, but found none: the run has to prune '
            'with PFB and mmpfb.PruningScheduleHook.'
        )
    steps = sorted(curve)
    return steps, [curve[step] for step in steps]


def main() -> None:
    """Read the logs and draw one line per run."""
    parser = build_parser()
    args = parser.parse_args()
    labels = args.labels or [path.name for path in args.work_dirs]
    if len(labels) != len(args.work_dirs):
        parser.error(
            f'Expected one of --labels for each of {len(args.work_dirs)} work dirs, but got '
            f'{len(labels)}.'
        )
    figure, axes = plt.subplots(figsize=(7, 3.6), layout='constrained')
    for work_dir, label in zip(args.work_dirs, labels, strict=True):
        try:
            steps, shares = read_curve(work_dir)
        except ValueError as error:
            parser.error(str(error))
        axes.plot(steps, [100 * share for share in shares], label=label)
    axes.set(xlabel='iteration', ylabel='random share of the retained images (%)')
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    out = args.out or args.work_dirs[0] / 'random_share.png'
    figure.savefig(out, dpi=110)
    print(f'random share over training: {out}')


if __name__ == '__main__':
    main()
