"""Draws modes.png: what a training step costs in each mode, and what each can save at best.

Run from the root of the repository: ``python docs/figures/modes.py``.
"""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt

from mmpfb.analysis.saving import FORWARD_SHARE, saving_bound

# DeepLabV3-R50-D8 cut at stage 3, and a classifier (ResNet-50) cut at stage 2; tools/cost.py.
SHARES = {'DeepLabV3-R50, stage 3': 0.142, 'ResNet-50, layer2': 0.438}
RATIO = 0.5
SCALE = 0.5
COLOURS = {'scoring': '#d1495b', 'before the cut': '#edae49', 'after the cut': '#30638e'}
HATCHES = {'scoring': '//', 'before the cut': '', 'after the cut': '..'}


def draw_step(axes, share):
    """Stack what one step computes, in percent of the unpruned step."""
    kept = 1 - RATIO
    rows = {
        'no pruning': (0.0, share, 1 - share),
        'reuse': (0.0, share, kept * (1 - share)),
        'rescore': (share * FORWARD_SHARE, kept * share, kept * (1 - share)),
        f'rescore,\nscale {SCALE:g}': (
            share * FORWARD_SHARE * SCALE**2, kept * share, kept * (1 - share)
        ),
    }
    for position, parts in enumerate(rows.values()):
        left = 0.0
        for part, name in zip(parts, COLOURS, strict=True):
            axes.barh(
                position, 100 * part, left=left, color=COLOURS[name], hatch=HATCHES[name],
                edgecolor='white', label=name if position == 0 else None,
            )
            left += 100 * part
        axes.annotate(f'{left:.0f}', (left + 1, position), va='center')
    axes.axvline(100 * kept, color='black', linestyle=':')
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(xlabel='work of a step (%)', xlim=(0, 112))


def draw_bounds(axes, share):
    """Draw the largest possible saving against the ratio."""
    ratios = [index / 100 for index in range(0, 91)]
    percent = [100 * ratio for ratio in ratios]
    axes.plot(percent, percent, ':', color='black', label='limit: the ratio')
    lines = (('rescore', SCALE, '-'), ('rescore', 1.0, '-.'), ('reuse', 1.0, '--'))
    for mode, scale, style in lines:
        bound = [100 * saving_bound(ratio, share, mode, scale) for ratio in ratios]
        label = mode if mode == 'reuse' else f'{mode}, scale {scale:g}'
        axes.plot(percent, bound, style, label=label)
    axes.set(xlabel='images pruned (%)', ylabel='saved at best (%)', ylim=(-16, 92))
    axes.grid(alpha=0.3)


def main():
    """Write the picture beside this file."""
    figure, rows = plt.subplots(
        len(SHARES), 2, figsize=(8.6, 6.4), layout='constrained', squeeze=False
    )
    for (left, right), (name, share) in zip(rows, SHARES.items(), strict=True):
        draw_step(left, share)
        draw_bounds(right, share)
        left.set_title(f'{name}: {share:.0%} before the cut, ratio {RATIO:g}', fontsize=10)
    rows[0][0].legend(loc='lower right', fontsize=8)
    rows[0][1].legend(loc='upper left', fontsize=8)
    figure.savefig(Path(__file__).with_suffix('.png'), dpi=100)


if __name__ == '__main__':
    main()
