"""Time training steps with and without pruning, interleaved in one process."""

import argparse
import importlib.util
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpfb.analysis.interleaved import compare_interleaved  # noqa: E402
from mmpfb.core.checks import check_positive_int, check_ratio  # noqa: E402
from mmpfb.datasets.synthetic import synthetic_batch  # noqa: E402
from mmpfb.models.mixin import BatchPruningMixin  # noqa: E402
from mmpfb.pruner import Phase  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration of a model that prunes')
    parser.add_argument('--ratios', type=float, nargs='+', default=[0.3, 0.5, 0.7])
    parser.add_argument('--batch-size', type=int, help="default: the config's")
    parser.add_argument('--repeats', type=int, default=7, help='steps of each variant')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser


def variants(
    model: Any, config: Config, batch: dict[str, list], ratios: list[float]
) -> dict[str, Callable[[], object]]:
    """Return one function per variant that does a whole training step; the first prunes nothing."""
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    for group in optimizer.param_groups:
        # Steps on random labels must not let the weights run away between two timings.
        group['lr'] = 0.0

    def step(phase: Phase, ratio: float) -> None:
        model.pruner.phase, model.pruner.current_ratio = phase, ratio
        model.train_step(batch, optimizer)

    while not model.pruner.selector.ready:
        step(Phase.OBSERVE, 0.0)
    return {
        'unpruned': lambda: step(Phase.IDLE, 0.0),
        **{f'{ratio:g}': lambda ratio=ratio: step(Phase.PRUNE, ratio) for ratio in ratios},
    }


def main() -> None:
    """Read the command line, time the steps and print the comparison."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmseg'))
    batch_size = args.batch_size
    if batch_size is None:
        batch_size = config.train_dataloader.batch_size
    try:
        check_positive_int('batch-size', batch_size, minimum=2)
        check_positive_int('repeats', args.repeats)
        for ratio in args.ratios:
            check_ratio('ratios', ratio)
    except ValueError as error:
        parser.error(str(error))
    # The time of a step does not depend on the weights, so nothing is downloaded.
    config.model.pretrained = None
    if 'data_preprocessor' in config:
        # As the runner does.
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(config.model).to(args.device).train()
    if not isinstance(model, BatchPruningMixin):
        parser.error(f'Expected a model that prunes, but {config.model.type} does not.')
    device = torch.device(args.device)
    try:
        batch = synthetic_batch(config, batch_size)
    except ValueError as error:
        parser.error(str(error))
    functions = variants(model, config, batch, args.ratios)
    results = compare_interleaved(functions, args.repeats, device)

    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == 'cuda'
        else f'{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads'
    )
    if args.json:
        rows = {name: asdict(result) for name, result in results.items()}
        print(json.dumps({'hardware': hardware, 'torch': torch.__version__,
                          'batch_size': batch_size, 'repeats': args.repeats, 'steps': rows}))
        return
    print(f'{args.config.stem}, batch {batch_size}, {hardware}, torch {torch.__version__}')
    print(f'{"ratio":>10} {"median s":>10} {"lowest":>8} {"highest":>8} {"saved":>8} {"limit":>7}')
    for name, result in results.items():
        limit = 0.0 if name == 'unpruned' else float(name)
        print(f'{name:>10} {result.median:>10.3f} {result.lowest:>8.3f} {result.highest:>8.3f} '
              f'{result.saved:>7.1%} {limit:>7.0%}')


if __name__ == '__main__':
    main()
