"""Draw a contact sheet of the images most often kept and most often pruned in a run."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402 - the backend has to be chosen first
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DATASETS, init_default_scope  # noqa: E402
from PIL import Image  # noqa: E402

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpfb.analysis.retention import RetentionRate, by_folder, by_group, extremes  # noqa: E402

RECORD_FILE = 'retention.json'


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help=f'work dir of a run, with {RECORD_FILE}')
    parser.add_argument('--count', type=int, default=12, help='images of either kind')
    parser.add_argument('--out', type=Path, help='picture (default: contact_sheet.png in work_dir)')
    parser.add_argument(
        '--groups',
        type=Path,
        help='JSON file that maps file names to groups, whose shares are printed '
        '(conditions.json of the street scenes)',
    )
    parser.add_argument(
        '--by-folder',
        action='store_true',
        help='print the shares of the folders that the images lie in, such as classes',
    )
    return parser


def image_loader(work_dir: Path, names: list[str]) -> Callable[[str], Any]:
    """Return a function that gives the RGB image of a name in the record.

    Images of a pickled data set have no files: they are recorded by number and read from the data
    set of the config in the work dir.

    Raises:
        FileNotFoundError: If an image cannot be found.
    """
    missing = [name for name in names if not Path(name).is_file()]
    if not missing:
        return lambda name: Image.open(name).convert('RGB')
    configs = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not all(name.isdigit() for name in missing) or not configs:
        raise FileNotFoundError(
            f'Expected {RECORD_FILE} to name image files, but {missing[0]!r} is none. Paths are '
            'relative to the folder that the run was started in; numbers need the config that a '
            f'run leaves in its work dir, of which there are {len(configs)}.'
        )
    # The record is that of the last run in this folder.
    config = Config.fromfile(configs[-1])
    if 'dataset' in config.train_dataloader.dataset:
        raise FileNotFoundError(
            f'Expected the images of {configs[-1].name} to have files, but they are recorded by '
            f'number and {config.train_dataloader.dataset.type} numbers them anew.'
        )
    init_default_scope(config.get('default_scope'))
    dataset = DATASETS.build(config.train_dataloader.dataset)
    return lambda name: dataset.get_data_info(int(name))['img']


def draw(
    kept: list[RetentionRate],
    pruned: list[RetentionRate],
    load: Callable[[str], Any],
    columns: int = 6,
) -> plt.Figure:
    """Return a figure with the two groups one below the other."""
    rows_each = -(-len(kept) // columns)
    figure = plt.figure(figsize=(1.9 * columns, 2.1 * 2 * rows_each + 1.0), layout='constrained')
    groups = figure.subfigures(2, 1)
    titles = ('Most often kept', 'Most often pruned')
    for group, title, rates in zip(groups, titles, (kept, pruned), strict=True):
        group.suptitle(title, fontweight='bold', x=0.01, ha='left')
        for axes, rate in zip(
            group.subplots(rows_each, columns, squeeze=False).flat,
            [*rates, *[None] * (rows_each * columns - len(rates))],
            strict=True,
        ):
            axes.axis('off')
            if rate is None:
                continue
            axes.imshow(load(rate.name))
            axes.set_title(f'kept {rate.kept} of {rate.seen}', fontsize=9)
    return figure


def main() -> None:
    """Read the record of a run and draw its extremes."""
    parser = build_parser()
    args = parser.parse_args()
    record_file = args.work_dir / RECORD_FILE
    if not record_file.is_file():
        parser.error(
            f'Expected {record_file} to exist; train with '
            "default_hooks.retention=dict(type='mmpfb.RetentionRecordHook')."
        )
    record = json.loads(record_file.read_text())
    try:
        kept, pruned = extremes(record, args.count)
        rates = by_folder(record) if args.by_folder else []
        if args.groups is not None:
            rates += by_group(record, json.loads(args.groups.read_text()))
        for rate in rates:
            print(f'{rate.name:>12}: kept {rate.share:4.0%} of {rate.seen}')
    except ValueError as error:
        parser.error(f'{record_file}: {error}')
    try:
        load = image_loader(args.work_dir, [rate.name for rate in kept + pruned])
    except FileNotFoundError as error:
        parser.error(str(error))
    out = args.out or args.work_dir / 'contact_sheet.png'
    draw(kept, pruned, load).savefig(out, dpi=70)
    print(f'contact sheet of the images most often kept and pruned: {out}')


if __name__ == '__main__':
    main()
