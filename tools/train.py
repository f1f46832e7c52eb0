"""Train a model from a configuration file."""

import argparse
import importlib.util
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration file')
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints (default: work_dirs/ and the name of the config)',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint of the work dir'
    )
    parser.add_argument('--amp', action='store_true', help='use automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the images loaded in an iteration, relative to '
        'auto_scale_lr.base_batch_size of the config',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that replace those of the file, for example model.pruning.ratio=0.5; '
        'a list is written key="[a,b]", without white space',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by the launcher'
    )
    return parser


def train_on_cpus(config: Config) -> None:
    """Let processes without a GPU train together; MMEngine's launchers ask for one."""
    seconds = config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout = {} if seconds is None else {'timeout': timedelta(seconds=seconds)}
    torch.distributed.init_process_group('gloo', **timeout)
    config.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=config.get('find_unused_parameters', False),
        ),
    )
    config.model_wrapper_cfg.device_ids = None


def main() -> None:
    """Read the command line, build the runner and train."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    config.launcher = args.launcher
    config.resume = args.resume
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs', args.config.stem))
    if args.amp:
        wrapper = config.optim_wrapper.get('type', 'OptimWrapper')
        if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
            parser.error(
                'Expected `optim_wrapper.type` to be OptimWrapper or AmpOptimWrapper with --amp, '
                f'but got {wrapper!r}.'
            )
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if config.get('auto_scale_lr', {}).get('base_batch_size') is None:
            parser.error(
                'Expected the config to set `auto_scale_lr.base_batch_size` with --auto-scale-lr.'
            )
        config.auto_scale_lr.enable = True
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        train_on_cpus(config)

    runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
    runner.train()


if __name__ == '__main__':
    main()
