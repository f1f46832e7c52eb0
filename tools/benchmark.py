"""Time and measure training steps with and without pruning, interleaved in one process.

The images are random ones of the config's size. A ratio of 0.3 retains 5 or 6 of 8 images in turn:
both steps are timed, and their mean counts each as often as it is met in a training.
"""

import argparse
import contextlib
import copy
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpfb.analysis.count_shares import count_shares  # noqa: E402
from mmpfb.analysis.interleaved import compare, mean_of_rounds, time_in_turn  # noqa: E402
from mmpfb.analysis.memory import peak_cuda_bytes, saved_tensor_bytes  # noqa: E402
from mmpfb.core.checks import check_device, check_positive_int, check_ratio, check_share  # noqa: E402
from mmpfb.datasets.synthetic import image_size, synthetic_batch  # noqa: E402
from mmpfb.engine.data_loading import seconds_per_batch  # noqa: E402
from mmpfb.engine.training_steps import TrainingSteps  # noqa: E402
from mmpfb.models.mixin import BatchPruningMixin  # noqa: E402
from mmpfb.models.settings import PruningSettings  # noqa: E402
from mmpfb.selectors import Needs  # noqa: E402

MODES = ('reuse', 'rescore')
DEFAULT_SCORE_SCALE = 0.5
UNPRUNED = 'unpruned'
MARKERS = {'reuse': ('o', '--'), 'rescore': ('s', '-')}


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration of a model that prunes')
    parser.add_argument('--ratios', type=float, nargs='+', default=[0.3, 0.5, 0.7])
    parser.add_argument(
        '--modes', nargs='+', choices=MODES, help='default: those that work for the model'
    )
    parser.add_argument(
        '--score-scale',
        type=float,
        help="factor on both sides of the images that rescore scores (default: the config's, "
        f'otherwise {DEFAULT_SCORE_SCALE:g})',
    )
    parser.add_argument('--batch-size', type=int, help="default: the config's")
    parser.add_argument('--repeats', type=int, default=7, help='steps of each variant')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--amp', action='store_true', help='use automatic mixed precision (CUDA alone)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('--plot', type=Path, help='PNG of the saving against the ratio')
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise a ``ValueError`` if an argument is out of range by itself."""
    if not args.config.is_file():
        raise ValueError(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    check_positive_int('repeats', args.repeats)
    if args.batch_size is not None:
        check_positive_int('batch-size', args.batch_size, minimum=2)
    for ratio in args.ratios:
        if check_ratio('ratios', ratio) == 0:
            raise ValueError(
                'Expected argument `ratios` to be above 0, but got 0.0; the unpruned step is timed '
                'in any case.'
            )
    if args.score_scale is not None:
        check_share('score-scale', args.score_scale)
        if args.modes and 'rescore' not in args.modes:
            raise ValueError(
                'Expected `rescore` to be among --modes with --score-scale, but got '
                f'{" ".join(args.modes)}.'
            )
    args.device = check_device(args.device)
    if args.plot is not None:
        if args.plot.suffix != '.png' or not args.plot.parent.is_dir():
            raise ValueError(
                'Expected argument `plot` to be a file that ends in .png in a folder that exists, '
                f'but got {str(args.plot)!r}.'
            )
        if importlib.util.find_spec('matplotlib') is None:
            raise ValueError('Expected matplotlib to be installed for --plot, but it is not.')


def check_model(config: Config) -> None:
    """Raise a ``ValueError`` if the model of a config does not prune."""
    kind = config.model.type
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(config.model.get('_scope_')) as registry:
            kind = registry.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, BatchPruningMixin)):
        raise ValueError(
            f'Expected a model that prunes, but {config.model.type} does not. Set the model type '
            'to its mmpfb counterpart (README, "In your own project").'
        )


def set_precision(config: Config, amp: bool, device: torch.device) -> bool:
    """Choose the optimiser wrapper as ``tools/train.py`` does; return whether precision is mixed.

    Raises:
        ValueError: If the wrapper or the device cannot mix precisions.
    """
    wrapper = config.optim_wrapper.setdefault('type', 'OptimWrapper')
    if amp and wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(
            'Expected `optim_wrapper.type` to be OptimWrapper or AmpOptimWrapper with --amp, '
            f'but got {wrapper!r}.'
        )
    if amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    mixed = config.optim_wrapper.type == 'AmpOptimWrapper'
    if mixed and device.type != 'cuda':
        raise ValueError(
            'Expected a CUDA device with mixed precision, which the AmpOptimWrapper of MMEngine '
            f'requires, but got {device}.'
        )
    return mixed


def build_steps(
    config: Config, mode: str, score_scale: float, batch: dict[str, list], device: torch.device
) -> TrainingSteps:
    """Return the training steps of a model that prunes in one mode."""
    model_config = copy.deepcopy(config.model)
    scale = score_scale if mode == 'rescore' else 1.0
    model_config.pruning = {
        **(model_config.get('pruning') or {}), 'mode': mode, 'score_scale': scale
    }
    model = MODELS.build(model_config).to(device).train()
    return TrainingSteps(model, config.optim_wrapper, batch)


def measure(
    steps: dict[str, TrainingSteps], ratios: list[float], repeats: int, device: torch.device
) -> list[dict[str, Any]]:
    """Return a row for the unpruned step and one for each mode and ratio."""
    first = next(iter(steps.values()))
    batch_size = first.batch_size
    shares = {
        (mode, ratio): count_shares(batch_size, ratio, own.model.pruner.min_keep)
        for mode, own in steps.items()
        for ratio in ratios
    }
    owners = {(UNPRUNED, batch_size): first}
    variants = {(UNPRUNED, batch_size): first.unpruned}
    for (mode, _), counts in shares.items():
        for count in counts:
            owners[mode, count] = steps[mode]
            variants[mode, count] = lambda mode=mode, count=count: steps[mode].retaining(count)
    times = time_in_turn(variants, repeats, device)
    everything = [tensor for own in steps.values() for tensor in own.tensors()]
    memory = {}
    for name, step in variants.items():
        if device.type == 'cuda':
            others = (own for own in steps.values() if own is not owners[name])
            exclude = [tensor for own in others for tensor in own.tensors()]
            memory[name] = peak_cuda_bytes(step, device, exclude)
        else:
            memory[name] = saved_tensor_bytes(step, everything)

    def row(mode: str, ratio: float, counts: dict[int, Any], scale: float | None) -> dict[str, Any]:
        weights = {(mode, count): float(share) for count, share in counts.items()}
        result = compare(mean_of_rounds(times, weights), times[UNPRUNED, batch_size])
        retained = sum(count * share for count, share in counts.items())
        pruned = float(1 - retained / batch_size)
        mean_bytes = sum(share * memory[name] for name, share in weights.items())
        return {
            'mode': mode,
            'ratio': ratio,
            'ratio_pruned': pruned,
            'score_scale': scale,
            'seconds': result.median,
            'lowest': result.lowest,
            'highest': result.highest,
            'images_per_s': batch_size / result.median,
            'saved': result.saved,
            'memory_bytes': round(mean_bytes),
            'memory_saved': 1 - mean_bytes / memory[UNPRUNED, batch_size],
            # Room is needed for the larger one of the steps that alternate.
            'memory_bytes_highest': max(memory[name] for name in weights),
            'limit': pruned,
        }

    rows = [row(UNPRUNED, 0.0, {batch_size: 1}, None)]
    for (mode, ratio), counts in shares.items():
        pruning = steps[mode].model
        scored = mode == 'reuse' or pruning.pruner.selector.needs is not Needs.NOTHING
        scale = pruning.pruning_score_scale if scored else None
        rows.append(row(mode, ratio, counts, scale))
    return rows


def run(config: Config, args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Build the models, time and measure; return the report and notes for a reader.

    Raises:
        ValueError: If the config and the arguments cannot be measured.
    """
    device, notes = args.device, []
    init_default_scope(config.get('default_scope', 'mmseg'))
    check_model(config)
    settings = PruningSettings.from_config(config.model.get('pruning'))
    score_scale = args.score_scale
    if score_scale is None:
        score_scale = settings.score_scale or DEFAULT_SCORE_SCALE
    amp = set_precision(config, args.amp, device)
    # The time of a step does not depend on the weights, so nothing is downloaded.
    config.model.pretrained = None
    if 'data_preprocessor' in config:
        # As the runner does.
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    if config.get('env_cfg', {}).get('cudnn_benchmark'):
        torch.backends.cudnn.benchmark = True
    batch_size = args.batch_size or config.train_dataloader.batch_size
    check_positive_int('batch-size', batch_size, minimum=2)
    batch = synthetic_batch(config, batch_size)

    steps = {}
    for mode in dict.fromkeys(args.modes or MODES):
        try:
            steps[mode] = build_steps(config, mode, score_scale, batch, device)
        except ValueError as error:
            if args.modes or (mode == 'rescore' and args.score_scale is not None):
                raise
            notes.append(f'{mode} is left out: {error}')
    if not steps:
        raise ValueError(' '.join(notes))
    rows = measure(steps, args.ratios, args.repeats, device)
    for row in rows:
        if row['ratio_pruned'] < row['ratio'] - 1e-9:
            min_keep = steps[row['mode']].model.pruner.min_keep
            notes.append(
                f'{row["mode"]} prunes {row["ratio_pruned"]:.1%} instead of {row["ratio"]:.1%}: '
                f'at least {min_keep} of {batch_size} images are retained.'
            )
    if any(row['saved'] > row['limit'] + 0.01 for row in rows):
        notes.append(
            'some savings are above the limit: other work on the machine disturbs the times; '
            'repeat with more --repeats on an idle one.'
        )
    # Last, so that no worker process is alive while steps are timed.
    loader = config.train_dataloader
    try:
        loading = seconds_per_batch(loader, batch_size)
        notes.append(
            f'data loading, apart from the steps: {loading:.3f} s a batch with '
            f'{loader.get("num_workers", 0)} worker processes'
        )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the data, the steps are timed
        loading = None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        notes.append(f'data loading: not measured: {reason}')
    report = {
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else (
            f'{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads'
        ),
        'torch': torch.__version__,
        'python': platform.python_version(),
        'location': next(iter(steps.values())).model.pruning_location,
        'batch_size': batch_size,
        'image_size': list(image_size(config)),
        'repeats': args.repeats,
        'amp': amp,
        'data_loading_s': loading,
        'memory': 'peak allocated on the device'
        if device.type == 'cuda'
        else 'tensors saved for the backward pass',
        'steps': rows,
    }
    return report, notes


def print_table(name: str, report: dict[str, Any], notes: list[str]) -> None:
    """Print the report as a table, with notes."""
    size = 'x'.join(map(str, report['image_size']))
    print(
        f'{name}, cut at {report["location"]}, batch {report["batch_size"]} of {size}, '
        f'{report["hardware"]}, torch {report["torch"]}'
        f'{", mixed precision" if report["amp"] else ""}'
    )
    print(
        f'{"mode":>8} {"ratio":>6} {"scale":>6} {"median s":>9} {"lowest":>8} {"highest":>8} '
        f'{"images/s":>9} {"time saved":>11} {"limit":>7} {"MiB":>9} {"MiB saved":>10} '
        f'{"at most":>9}'
    )
    for row in report['steps']:
        scale = '' if row['score_scale'] is None else f'{row["score_scale"]:g}'
        ratio = '' if row['mode'] == UNPRUNED else f'{row["ratio"]:g}'
        print(
            f'{row["mode"]:>8} {ratio:>6} {scale:>6} {row["seconds"]:>9.4f} '
            f'{row["lowest"]:>8.4f} {row["highest"]:>8.4f} {row["images_per_s"]:>9.1f} '
            f'{row["saved"]:>11.1%} {row["limit"]:>7.1%} {row["memory_bytes"] / 2**20:>9.1f} '
            f'{row["memory_saved"]:>10.1%} {row["memory_bytes_highest"] / 2**20:>9.1f}'
        )
    print(f'medians of {report["repeats"]} interleaved steps; limit: the share of images pruned')
    print(f'MiB: {report["memory"]}, mean and at most')
    for note in notes:
        print(note)


def draw(name: str, report: dict[str, Any], path: Path) -> None:
    """Draw the saving of time against the ratio, one line per mode, and the limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout='constrained')
    axes = figure.subplots()
    pruned = report['steps'][1:]
    end = 100 * min(1.0, 1.1 * max(row['limit'] for row in pruned))
    label = 'limit: the share of images pruned'
    axes.plot([0, end], [0, end], color='black', linestyle=':', label=label)
    for mode in dict.fromkeys(row['mode'] for row in pruned):
        rows = sorted(
            (row for row in pruned if row['mode'] == mode), key=lambda row: row['ratio_pruned']
        )
        marker, line = MARKERS[mode]
        scale = rows[0]['score_scale']
        axes.plot(
            [100 * row['ratio_pruned'] for row in rows],
            [100 * row['saved'] for row in rows],
            marker=marker,
            linestyle=line,
            label=f'{mode}, score scale {scale:g}' if scale not in (None, 1) else mode,
        )
    size = 'x'.join(map(str, report['image_size']))
    axes.set_title(
        f'{name}\nbatch {report["batch_size"]} of {size}, {report["hardware"]}'
        f'{", mixed precision" if report["amp"] else ""}',
        fontsize=8,
    )
    axes.set(xlabel='images pruned (%)', ylabel='time of a training step saved (%)')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the command line, time the steps and print the comparison."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        check(args)
        # The frameworks log to the standard output, which is for the report.
        with contextlib.redirect_stdout(sys.stderr):
            report, notes = run(Config.fromfile(args.config), args)
    except ValueError as error:
        parser.error(str(error))
    if args.json:
        print(json.dumps({**report, 'notes': notes}))
    else:
        print_table(args.config.stem, report, notes)
    if args.plot is not None:
        draw(args.config.stem, report, args.plot)


if __name__ == '__main__':
    main()
