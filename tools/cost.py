"""Count the training FLOPs of one step of a model, whole and pruned, and what pruning saves."""

import argparse
import contextlib
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

if importlib.util.find_spec('mmpfb') is None:
    # A clone that was not installed: the package lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Frameworks print while they are imported; the standard output belongs to the result.
with contextlib.redirect_stdout(sys.stderr):
    from mmpfb.datasets.synthetic import image_size
    from mmpfb.models.counting import Cost, count_cost
    from mmpfb.models.settings import MODES

LATE_SHARE = 0.9
GIGA = 1e9


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='configuration of a model, pruned or not')
    parser.add_argument('--ratio', type=float, help='share of the images to prune')
    parser.add_argument('--mode', help=f'one of {", ".join(MODES)}')
    parser.add_argument(
        '--score-scale', type=float, help='factor on both sides of the images that are scored'
    )
    parser.add_argument('--location', help='module path at which the batch is cut, or auto')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    return parser


def main() -> None:
    """Read the command line, count and print."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config.is_file():
        parser.error(f'Expected argument `config` to be a file, but got {str(args.config)!r}.')
    names = ('ratio', 'mode', 'score_scale', 'location')
    pruning = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    with contextlib.redirect_stdout(sys.stderr):
        config = Config.fromfile(args.config)
        init_default_scope(config.get('default_scope', 'mmseg'))
        for key in ('model', 'train_dataloader'):
            if key not in config:
                parser.error(f'Expected a config with `{key}`, but {args.config} has none.')
        try:
            cost = count_cost(config, tuple(image_size(config)), **pruning)
        except (NotImplementedError, OSError, TypeError, ValueError) as error:
            parser.error(str(error))
    print(json.dumps(as_json(cost)) if args.json else as_text(cost, args.config.stem))


def as_json(cost: Cost) -> dict:
    """Return the cost as plain values; FLOPs are those per image of the whole batch."""
    return {
        'flops_full': cost.full.total,
        'flops_pruned': cost.pruned.total,
        'saved': cost.saved,
        **{key: value for key, value in asdict(cost).items() if key != 'places'},
        'places': [place._asdict() for place in cost.places],
    }


def as_text(cost: Cost, name: str) -> str:
    """Return the cost as a table to read."""
    size = 'x'.join(map(str, cost.image_size))
    mode = cost.mode
    if mode == 'rescore':
        mode += f' at score_scale {cost.score_scale:g}'
    # No place to cut at: the losses of all images decide.
    cut = f'cut at {cost.location}' if cost.places else 'scored by a pass of the whole network'
    lines = [
        f'{name}: {cost.model}, images of {size}',
        f'{cut}, mode {mode}, ratio {cost.ratio:g} '
        f'({cost.num_retained} of {cost.batch_size} images retained)',
    ]
    if abs(cost.requested_ratio - cost.ratio) > 1e-9:
        lines.append(f'ratio {cost.requested_ratio:g} is rounded to whole images of a batch')
    lines += ['', f'{"GFLOPs per image":<18}{"scoring":>11}{"forward":>11}{"backward":>11}'
              f'{"total":>11}']
    for title, flops in (('full step', cost.full), ('pruned step', cost.pruned)):
        parts = (flops.scoring, flops.forward, flops.backward, flops.total)
        lines.append(f'{title:<18}' + ''.join(f'{part / GIGA:>11.3f}' for part in parts))
    lines += [
        '',
        f'saved {cost.saved:.1%} of a training step; the limit is the ratio, {cost.ratio:.1%}',
    ]
    if cost.places and cost.share_before_cut > LATE_SHARE:
        lines.append(
            f'{cost.share_before_cut:.0%} of the work lies before {cost.location}: the cut comes '
            'too late to save much; choose an earlier place.'
        )
    if cost.saved < 0:
        lines.append('Scoring costs more than pruning saves here.')
    if not cost.places:
        return '\n'.join(lines)
    width = max(len(place.location) for place in cost.places) + 4
    rescore_title = f'rescore at {cost.places_score_scale:g}'
    lines += ['', f'saved at most, at ratio {cost.ratio:g}, by',
              f'{"a cut at":<{width}}{"share before":>13}{"reuse":>13}{rescore_title:>17}']
    for place in cost.places:
        chosen = '* ' if place.location == cost.location else '  '
        reuse, rescore = (
            '-' if bound is None else f'{bound:.1%}' for bound in (place.reuse, place.rescore)
        )
        lines.append(f'{chosen + place.location:<{width}}{place.share:>13.1%}{reuse:>13}'
                     f'{rescore:>17}')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
