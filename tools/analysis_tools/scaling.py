"""Measure what choosing images costs at scale, and the memory that the state of every method holds.

One factor at a time grows: images in a batch, centroids, dimensions; ranks; images in the data set.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpfb.analysis import scaling  # noqa: E402
from mmpfb.analysis.scaling import PARTS, SAMPLERS, ScoringSize, SelectorMemory  # noqa: E402
from mmpfb.core.checks import check_device, check_positive_int, check_ratio  # noqa: E402
from mmpfb.selectors import build_selector  # noqa: E402

MEASUREMENTS = ('scoring', 'ranks', 'selectors', 'samplers')
SELECTORS = ('PFB', 'Uniform', 'HighLoss', 'DivBS')
FACTORS = {'batch_size': 'batch size', 'num_centroids': 'centroids', 'dim': 'dimensions'}
# Of an option, in the order of FACTORS.
OPTIONS = ('batch_sizes', 'centroids', 'dims')


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    default = ScoringSize()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--measure', nargs='+', choices=MEASUREMENTS, default=list(MEASUREMENTS),
        help='default: everything',
    )
    parser.add_argument(
        '--around', type=int, nargs=3, metavar=('B', 'N_C', 'D'),
        default=[default.batch_size, default.num_centroids, default.dim],
        help='batch size, centroids and dimensions while another one of them is varied '
        f'(default: {default.batch_size} {default.num_centroids} {default.dim})',
    )
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[2, 8, 32, 128, 512])
    parser.add_argument('--centroids', type=int, nargs='+', default=[16, 64, 256, 1024])
    parser.add_argument('--dims', type=int, nargs='+', default=[16, 128, 512, 2048])
    parser.add_argument('--ratio', type=float, default=0.5, help='share of the images to prune')
    parser.add_argument(
        '--map', type=int, nargs=2, default=[256, 14], metavar=('C', 'SIDE'), dest='stage_output',
        help='channels, and height and width, of the stage output that is pooled (default: 256 14)',
    )
    parser.add_argument('--repeats', type=int, default=30, help='rounds of every measured time')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where scoring is timed; ranks are processes of the host in any case',
    )
    parser.add_argument('--ranks', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument(
        '--images', type=int, nargs='+', default=[1_000_000, 10_000_000],
        help='images in the data set of a sampler (default: 1 and 10 million)',
    )
    parser.add_argument(
        '--samplers', nargs='+', choices=list(SAMPLERS), default=list(SAMPLERS), metavar='NAME',
        help=f'default: {", ".join(SAMPLERS)}',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results there as well')
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise a ``ValueError`` if an argument is out of range."""
    args.around = ScoringSize(*args.around)
    sizes_around(args)
    if check_ratio('ratio', args.ratio) == 0:
        raise ValueError('Expected argument `ratio` to be above 0, as 0 prunes nothing, but got 0.')
    for name in ('stage_output', 'ranks', 'images'):
        for value in getattr(args, name):
            check_positive_int('map' if name == 'stage_output' else name, value)
    check_positive_int('repeats', args.repeats, minimum=2)
    args.device = check_device(args.device)
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise ValueError(
            'Expected argument `json` to be a file in a folder that exists, but got '
            f'{str(args.json)!r}.'
        )


def sizes_around(args: argparse.Namespace) -> dict[str, list[ScoringSize]]:
    """Return for each factor the sizes of which only that one differs, ascending.

    The sizes that others vary around are always among them.
    """
    found = {}
    for factor, option in zip(FACTORS, OPTIONS, strict=True):
        values = sorted({getattr(args.around, factor), *getattr(args, option)})
        found[factor] = [replace(args.around, **{factor: value}) for value in values]
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for; return a report of plain values."""
    report: dict[str, Any] = {
        'hardware': torch.cuda.get_device_name(args.device)
        if args.device.type == 'cuda'
        else f'{platform.processor() or platform.machine()} CPU',
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'python': platform.python_version(),
        'repeats': args.repeats,
        'ratio': args.ratio,
        'around': asdict(args.around),
        'stage_output': dict(zip(('channels', 'side'), args.stage_output, strict=True)),
    }
    functions = {
        'scoring': measure_scoring,
        'ranks': measure_ranks,
        'selectors': measure_selectors,
        'samplers': measure_samplers,
    }
    for name in MEASUREMENTS:
        if name in args.measure:
            print(f'measuring: {name}', file=sys.stderr)
            report[name] = functions[name](args)
    return report


def measure_scoring(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every factor and value of it, with the times of all parts of a step."""
    sizes = sizes_around(args)
    every = [size for several in sizes.values() for size in several]
    channels, side = args.stage_output
    times = scaling.time_scoring(every, args.repeats, args.device, args.ratio, channels, side)
    return [
        {
            'factor': factor,
            **asdict(size),
            'seconds': {part: asdict(times[size][part]) for part in PARTS},
            # On a busy machine most long steps are interrupted and few short ones.
            'growth': times[size]['step'].lowest / times[args.around]['step'].lowest,
        }
        for factor, several in sizes.items()
        for size in several
    ]


def measure_ranks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every number of ranks; a single one sends nothing."""
    centroids, dim = args.around.num_centroids, args.around.dim
    summed = scaling.summed_bytes(centroids, dim)
    rows = []
    for ranks in args.ranks:
        times = None
        if ranks > 1:
            times = asdict(scaling.time_sum_over_ranks(ranks, centroids, dim, args.repeats))
        sent = scaling.sent_bytes(ranks, summed)
        rows.append({'ranks': ranks, 'summed_bytes': summed, 'sent_bytes': sent, 'seconds': times})
    return rows


def measure_selectors(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every in-batch selector."""
    return [asdict(measure_selector(name, args.around)) for name in SELECTORS]


def measure_selector(name: str, size: ScoringSize) -> SelectorMemory:
    """Return the memory of one in-batch selector."""
    settings = {'num_centroids': size.num_centroids, 'dim': size.dim} if name == 'PFB' else {}
    selector = build_selector({'type': name, **settings})
    return scaling.measure_selector(selector, size.batch_size, size.dim)


def measure_samplers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every epoch-level sampler and size of the data set."""
    rows = []
    for num_images in args.images:
        for name in args.samplers:
            print(f'measuring: {name}, {num_images:,} images', file=sys.stderr)
            row = scaling.in_fresh_process(scaling.measure_sampler, name, num_images, args.ratio)
            rows.append(asdict(row))
    return rows


def as_text(report: dict[str, Any]) -> str:
    """Return the report as tables to read."""
    texts = {
        'scoring': scoring_text,
        'ranks': ranks_text,
        'selectors': selectors_text,
        'samplers': samplers_text,
    }
    tables = [texts[name](report) for name in MEASUREMENTS if name in report]
    head = (
        f'{report["hardware"]}, {report["threads"]} thread(s), torch {report["torch"]}, '
        f'ratio {report["ratio"]:g}'
    )
    return '\n\n'.join([head, *tables])


def scoring_text(report: dict[str, Any]) -> str:
    """Return the table of the scoring step."""
    around, output = report['around'], report['stage_output']
    lines = [
        'Scoring step of PFB: choice (log densities, selection) and update of the centroids; '
        'pooling comes before it.',
        f'One factor is varied around batch size {around["batch_size"]}, '
        f'{around["num_centroids"]} centroids, {around["dim"]} dimensions (*).',
        f'Pooled: {output["channels"]} channels (at least the dimensions) of {output["side"]}x'
        f'{output["side"]}. Milliseconds, medians of {report["repeats"]} interleaved rounds.',
        'Lowest: the shortest step; per image and growth are of that.',
        f'{"":<18}{"pooling":>10}{"choice":>10}{"update":>10}{"step":>10}{"quartiles":>20}'
        f'{"lowest":>10}{"per image":>11}{"growth":>8}',
    ]
    for factor, title in FACTORS.items():
        for row in report['scoring']:
            if row['factor'] != factor:
                continue
            median = [1000 * row['seconds'][part]['median'] for part in PARTS]
            lowest = 1000 * row['seconds']['step']['lowest']
            star = '*' if row[factor] == around[factor] else ''
            lines.append(
                f'{f"{title} {row[factor]}{star}":<18}'
                + ''.join(f'{value:>10.3f}' for value in median)
                + f'{_quartiles(row["seconds"]["step"]):>20}{lowest:>10.3f}'
                + f'{lowest / row["batch_size"]:>11.4f}{row["growth"]:>8.2f}'
            )
    return '\n'.join(lines)


def ranks_text(report: dict[str, Any]) -> str:
    """Return the table of the collective operation."""
    around, rows = report['around'], report['ranks']
    lines = [
        f'Ranks: in every step one sum over all of {around["num_centroids"]} x '
        f'({around["dim"]} + 1) numbers of 4 bytes, {rows[0]["summed_bytes"]:,} bytes, whatever '
        'the batch size.',
        f'{"ranks":>5}{"bytes sent per rank":>22}{"ms":>10}{"quartiles":>20}{"lowest":>10}',
    ]
    for row in rows:
        times = row['seconds']
        columns = f'{"-":>10}{"-":>20}{"-":>10}'
        if times is not None:
            columns = (
                f'{1000 * times["median"]:>10.3f}{_quartiles(times):>20}'
                f'{1000 * times["lowest"]:>10.3f}'
            )
        lines.append(f'{row["ranks"]:>5}{row["sent_bytes"]:>22,}{columns}')
    lines += [
        'Bytes are those of a ring, 2 (R - 1) / R of the sum: other algorithms send more.',
        f'Times: gloo, processes of this machine on {report["cores"]} core(s), no network between '
        'them: an order of magnitude alone.',
    ]
    return '\n'.join(lines)


def selectors_text(report: dict[str, Any]) -> str:
    """Return the table of the in-batch selectors."""
    around = report['around']
    lines = [
        f'In-batch selectors ({around["num_centroids"]} centroids, {around["dim"]} dimensions): '
        'the same whatever the number of images in the data set.',
        f'{"":<18}{"bytes held":>12}{"bytes in a checkpoint":>24}',
    ]
    for row in report['selectors']:
        lines.append(f'{row["name"]:<18}{row["tensor_bytes"]:>12,}{row["checkpoint_bytes"]:>24,}')
    lines.append('An empty state takes the bytes in a checkpoint that the file format adds.')
    return '\n'.join(lines)


def samplers_text(report: dict[str, Any]) -> str:
    """Return the table of the epoch-level samplers."""
    groups = (
        f'{"":<34}{"images":>12}{"tensors":>18}{"check-":>8}{"process":>9}{"peak of a start":>18}'
        f'{"seconds to start":>18}{"losses":>8}'
    )
    titles = (
        f'{"bytes per image":<34}{"":>12}{"now":>9}{"most":>9}{"point":>8}{"now":>9}'
        f'{"1st pass":>9}{"2nd pass":>9}{"1st pass":>9}{"2nd pass":>9}{"s":>8}'
    )
    lines = ['Epoch-level samplers, one process (rank) for all images.', groups, titles]
    for row in report['samplers']:
        def per_image(key: str, row: dict[str, Any] = row) -> str:
            return '-' if row[key] is None else f'{row[key] / row["num_images"]:.1f}'

        lines.append(
            f'{row["name"]:<34}{row["num_images"]:>12,}{per_image("tensor_bytes"):>9}'
            f'{per_image("tensor_bytes_highest"):>9}{per_image("checkpoint_bytes"):>8}'
            f'{per_image("resident_bytes"):>9}{per_image("first_peak_bytes"):>9}'
            f'{per_image("peak_bytes"):>9}{row["first_plan_seconds"]:>9.2f}'
            f'{row["plan_seconds"]:>9.2f}{row["observe_seconds"]:>8.2f}'
        )
    lines += [
        'tensors: held as the 2nd pass begins; most: at the end of the 1st, with its losses.',
        'process: memory of the process, grown since the sampler was built, as the 2nd pass '
        'begins: tensors, and indices to draw.',
        'peak: most memory of the process in addition while a pass is planned, by the resident '
        'size of a fresh process.',
        'losses: seconds of a whole pass to hand them over, batch by batch. The 1st pass is full '
        'where losses choose.',
    ]
    return '\n'.join(lines)


def _quartiles(times: dict[str, float]) -> str:
    return f'{1000 * times["lower"]:.3f}-{1000 * times["upper"]:.3f}'


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        report = measure(args)
    except RuntimeError as error:
        parser.exit(1, f'{error}\n')
    print(as_text(report))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
