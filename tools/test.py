"""Evaluate a checkpoint, on one scale or with multi-scale and flip augmentation."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint, a file or an address')
    parser.add_argument(
        '--work-dir',
        help='folder of logs and scores (default: work_dirs/ and the name of the config)',
    )
    parser.add_argument('--out', help='folder for the predicted label images (segmentation)')
    parser.add_argument(
        '--show-dir', help='folder for images with the prediction painted over (segmentation)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over the scales and flips of `tta_pipeline` in the config',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that replace those of the file; a list is written key="[a,b]", '
        'without white space',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by the launcher'
    )
    return parser


def use_test_time_augmentation(config: Config) -> None:
    """Wrap the model and the test pipeline of `config` for test-time augmentation.

    Raises:
        ValueError: If the config does not say how to augment.
    """
    for key in ('tta_model', 'tta_pipeline'):
        if key not in config:
            raise ValueError(f'Expected the config to define `{key}` for --tta, but it does not.')
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.model = ConfigDict(**config.tta_model, module=config.model)


def main() -> None:
    """Read the command line, build the runner and evaluate."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        parser.error(f'Expected argument `checkpoint` to be a file, but got {args.checkpoint!r}.')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    config.launcher = args.launcher
    config.load_from = args.checkpoint
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs', args.config.stem))
    if args.tta:
        try:
            use_test_time_augmentation(config)
        except ValueError as error:
            parser.error(str(error))
    pictures = args.out is not None or args.show_dir is not None
    if pictures and config.get('default_scope') == 'mmpretrain':
        parser.error('Expected the config of a segmentor with --out or --show-dir, but got a '
                     'classifier, whose images `default_hooks.visualization` draws.')
    if args.out is not None:
        evaluators = config.test_evaluator
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            evaluator.output_dir = args.out
    if args.show_dir is not None:
        hook = config.get('default_hooks', {}).get('visualization')
        if hook is None:
            parser.error('Expected the config to define `default_hooks.visualization` for '
                         '--show-dir, but it does not.')
        hook.draw = True
        config.visualizer.save_dir = args.show_dir

    runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
    runner.test()


if __name__ == '__main__':
    main()
