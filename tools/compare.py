"""Train several pruning methods side by side and tabulate what each of them gives and costs.

Runs are made one after the other, each in a folder of its own. Started again, the comparison
repeats no finished run and goes on with an interrupted one from its last checkpoint. The table is
written anew after every run.
"""

import argparse
import contextlib
import importlib.util
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with contextlib.redirect_stdout(sys.stderr):
    from mmpfb.analysis.comparison import RunResult, as_csv, as_markdown, summarise
    from mmpfb.comparison.methods import METHODS, Plan, parse_method
    from mmpfb.comparison.picture import draw
    from mmpfb.comparison.planning import (
        BUDGETS,
        StepCost,
        check_methods,
        make_plan,
        make_runs,
        planned_images_of,
        step_cost,
    )
    from mmpfb.comparison.progress import Progress
    from mmpfb.comparison.runs import Run, execute, train_command
    from mmpfb.core.checks import check_positive_int, check_ratio

USUAL_METRICS = ('mIoU', 'accuracy/top1')


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration of the training, pruned or not')
    parser.add_argument(
        '--methods',
        nargs='+',
        required=True,
        metavar='METHOD',
        help=f'any of {", ".join(METHODS)}; arguments of the method follow a colon, for example '
        'pfb:temperature=0.5',
    )
    parser.add_argument(
        '--ratio', type=float, required=True, help='share of the images to prune, in (0, 1)'
    )
    parser.add_argument('--seeds', type=int, default=1, help='number of seeds (default: 1)')
    parser.add_argument(
        '--budget',
        choices=BUDGETS,
        default=BUDGETS[0],
        help='equal-images: methods that leave images out of an epoch train for as many iterations '
        'as see the number of images that a method which prunes in the batch trains on; '
        'equal-iterations: they train for as many iterations as the full training',
    )
    parser.add_argument(
        '--work-dir', type=Path, help='folder (default: work_dirs/compare/ and the config name)'
    )
    parser.add_argument('--metric', help='metric of the table (default: mIoU or accuracy/top1)')
    parser.add_argument(
        '--report',
        action='store_true',
        help='train nothing; write table and picture from the runs that are there',
    )
    parser.add_argument('--gpus', type=int, default=1, help='number of GPUs per run (default: 1)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that replace those of the file in every run',
    )
    return parser


def main() -> None:
    """Read the command line, train what is missing and write table and picture."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    try:
        check_ratio('--ratio', args.ratio)
        check_positive_int('--seeds', args.seeds)
        check_positive_int('--gpus', args.gpus)
        methods = [parse_method(text) for text in args.methods]
        labels = [method.label for method in methods]
        if len(set(labels)) < len(labels):
            raise ValueError(f'Expected different --methods, but got {args.methods}.')
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options)
        init_default_scope(config.get('default_scope', 'mmseg'))
        folder = args.work_dir or Path('work_dirs', 'compare', args.config.stem)
        with contextlib.redirect_stdout(sys.stderr):
            plan = make_plan(config, args.ratio, args.budget, args.gpus)
            runs = make_runs(plan, methods, args.seeds, folder)
            check_methods(runs)
        if args.report and not folder.is_dir():
            raise ValueError(
                f'Expected a folder of runs with --report, but {str(folder)!r} does not exist.'
            )
        for run in runs:
            if args.report:
                run.check()
            else:
                run.prepare()
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))

    print('Counting training FLOPs ...', flush=True)
    costs = count_costs(runs, args.ratio)

    def write() -> tuple[str, list[RunResult]]:
        return write_report(runs, costs, args.metric or usual_metric(runs), folder)

    if not args.report:
        # Whoever stops the comparison stops the training in it.
        signal.signal(signal.SIGTERM, stop)
        train_missing(runs, plan, train_command(args.gpus), write)
    table, results = write()
    print(f'\n{table}\ncomparison.md and its like written to {folder}')
    if any(result.failure for result in results):
        sys.exit(1)


def stop(signal_number: int, frame: Any) -> None:
    """End as a signal would, but tidily."""
    sys.exit(128 + signal_number)


def train_missing(
    runs: list[Run], plan: Plan, command: list[str], on_end: Callable[[], Any]
) -> None:
    """Train the runs that have not finished; call ``on_end`` after each of them."""
    progress = Progress({run.folder: planned_images_of(plan, run.method) for run in runs})
    for number, run in enumerate(runs, 1):
        title = f'[{number}/{len(runs)}] {run.method.caption}, seed {run.seed}'
        if run.record is not None:
            progress.ended(run.folder)
            print(f'{title}: finished before', flush=True)
            continue
        verb = 'resumed' if run.can_resume else 'started'
        print(f'{title}: {verb} at {time.strftime("%H:%M")}', flush=True)
        progress.started(run.folder, run.iterations_done() / run.iterations)

        def tell(done: int, run: Run = run, title: str = title) -> None:
            line = progress.advance(run.folder, done / run.iterations)
            if line:
                print(f'{title}: iteration {done} of {run.iterations}; {line}', flush=True)

        problem = execute(run, command, tell)
        share = 1.0 if problem is None else run.iterations_done() / run.iterations
        outcome = 'finished' if problem is None else f'FAILED, {problem}'
        print(f'{title}: {outcome}; {progress.ended(run.folder, share)}', flush=True)
        on_end()


def count_costs(runs: list[Run], ratio: float) -> dict[str, StepCost]:
    """Count the operations of each method; say so where they cannot be counted."""
    costs: dict[str, StepCost] = {}
    for run in runs:
        if run.method.label in costs or run.seed:
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):
                costs[run.method.label] = step_cost(run, ratio)
        except (NotImplementedError, ValueError) as error:
            print(f'The FLOPs of {run.method.caption} are not counted: {error}', file=sys.stderr)
    return costs


def usual_metric(runs: list[Run]) -> str:
    """Return the metric that the runs were validated by."""
    names = {name: None for run in runs for name in (run.record or {}).get('metrics', {})}
    for name in (*USUAL_METRICS, *names):
        if name in names:
            return name
    return USUAL_METRICS[0]


def result_of(run: Run, costs: dict[str, StepCost], metric: str) -> RunResult:
    """Return the outcome of a run."""
    record, label = run.record, run.method.label
    if record is None:
        if run.failure is not None:
            return RunResult(label, run.seed, failure=run.failure)
        done = f'iteration {run.iterations_done()} of {run.iterations}'
        return RunResult(label, run.seed, unfinished=done)
    if run.method.kind == 'batch' and not record['images_seen_while_pruning']:
        reason = 'nothing was pruned: the run was over before the selector had seen enough images'
        return RunResult(label, run.seed, failure=reason)
    value = record['metrics'].get(metric, math.nan)
    if math.isnan(value):
        known = ', '.join(f'{name} {one:g}' for name, one in record['metrics'].items())
        reason = f'no {metric} in its last validation, which gave {known or "nothing"}'
        return RunResult(label, run.seed, failure=reason)
    cost = costs.get(label)
    return RunResult(
        label,
        run.seed,
        metric=value,
        images_trained=record['images_trained'],
        images_loaded=record['images_loaded'],
        flops=None if cost is None else cost.of_run(record),
        seconds=record['seconds'],
        peak_memory_bytes=record['peak_memory_bytes'],
    )


def write_report(
    runs: list[Run], costs: dict[str, StepCost], metric: str, folder: Path
) -> tuple[str, list[RunResult]]:
    """Write tables and picture into the folder; return the table and the outcomes of the runs."""
    results = [result_of(run, costs, metric) for run in runs]
    rows = summarise(results, {run.method.label: run.method.caption for run in runs})
    kinds = {run.record['peak_memory_kind'] for run in runs if run.record is not None}
    table = as_markdown(rows, metric, ' or '.join(sorted(kinds)) or 'none')
    (folder / 'comparison.md').write_text(table)
    (folder / 'comparison.csv').write_text(as_csv(rows, metric))
    (folder / 'runs.csv').write_text(as_csv(results, metric))
    if any(row.metric is not None for row in rows):
        draw(rows, metric, folder / 'comparison.png')
    return table, results


if __name__ == '__main__':
    main()
