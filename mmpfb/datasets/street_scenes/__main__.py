"""Draws the street scenes from the command line."""

import argparse
import sys
from collections.abc import Sequence

from mmpfb.datasets.street_scenes.files import StreetScenesParameters, prepare_street_scenes


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    default = StreetScenesParameters()
    parser = argparse.ArgumentParser(
        prog='python -m mmpfb.datasets.street_scenes',
        description='Draw a long-tailed set of street scenes with the classes of CamVid.',
        allow_abbrev=False,
    )
    parser.add_argument('out', help='folder to draw to; must be absent or empty')
    parser.add_argument('--num-train', type=int, default=default.num_train, metavar='N')
    parser.add_argument('--num-val', type=int, default=default.num_val, metavar='N')
    parser.add_argument('--size', type=int, nargs=2, default=default.size, metavar=('W', 'H'))
    parser.add_argument('--seed', type=int, default=default.seed, metavar='S')
    return parser.parse_args(arguments)


def _show_progress(drawn: int, total: int) -> None:
    end = '\n' if drawn == total else ''
    print(f'\r{drawn}/{total} images', end=end, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the set; returns the exit status."""
    options = parse_args(arguments)
    try:
        parameters = StreetScenesParameters(
            options.num_train, options.num_val, tuple(options.size), options.seed
        )
        drawn = prepare_street_scenes(options.out, parameters, _show_progress)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{"Drawn to" if drawn else "Already complete:"} {options.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
