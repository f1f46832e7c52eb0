"""Draw docs/figures/how_it_works.png: ``python docs/figures/how_it_works.py``."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402 - the backend has to be chosen first
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle  # noqa: E402

KEPT = (1, 4, 6)
NUM_IMAGES = 8
BLUE, GREY, ORANGE, INK = '#2f6db5', '#c9ced6', '#e07b39', '#222b36'


def box(axes, left, bottom, width, height, text, colour, text_colour='white'):
    """Draw a rounded box with centred text."""
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle='round,pad=0,rounding_size=0.12',
            facecolor=colour, edgecolor='none',
        )
    )
    axes.text(left + width / 2, bottom + height / 2, text, ha='center', va='center',
              color=text_colour, fontsize=11)


def stack(axes, left, colours, note):
    """Draw one small square per image of the batch."""
    for index, colour in enumerate(colours):
        axes.add_patch(Rectangle((left, 3.86 - 0.36 * index), 0.3, 0.3, facecolor=colour,
                                 edgecolor='none'))
    axes.text(left + 0.15, 4.3, note, ha='center', va='bottom', fontsize=9, color=INK)


def arrow(axes, start, end, colour=INK, style='-|>', line='-', bend=0.0):
    """Draw an arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=13, color=colour, lw=1.6,
                        linestyle=line, connectionstyle=f'arc3,rad={bend}')
    )


def main() -> None:
    """Draw the path of a batch through a pruned segmentor."""
    figure, axes = plt.subplots(figsize=(11, 4.3))
    axes.set(xlim=(0, 13.2), ylim=(0, 5.2))
    axes.axis('off')
    chosen = [ORANGE if index in KEPT else GREY for index in range(NUM_IMAGES)]

    stack(axes, 0.2, [BLUE] * NUM_IMAGES, 'B images')
    arrow(axes, (0.6, 2.5), (1.1, 2.5))
    box(axes, 1.15, 1.9, 2.2, 1.2, 'encoder\nstages 1 to 3', BLUE)
    arrow(axes, (3.4, 2.5), (3.9, 2.5))
    stack(axes, 3.98, [BLUE] * NUM_IMAGES, 'features\nof all B')
    arrow(axes, (4.4, 2.9), (4.95, 3.45))
    box(axes, 4.95, 3.2, 2.3, 0.95, 'pool, density,\nlowest k', INK)
    arrow(axes, (6.1, 3.15), (6.1, 2.8), ORANGE)
    box(axes, 5.35, 2.2, 1.5, 0.55, 'cut', ORANGE)
    arrow(axes, (4.4, 2.48), (5.3, 2.48))
    arrow(axes, (6.9, 2.48), (7.4, 2.48), ORANGE)
    stack(axes, 7.48, chosen, 'k retained')
    arrow(axes, (7.9, 2.5), (8.4, 2.5), ORANGE)
    box(axes, 8.45, 1.9, 2.5, 1.2, 'stage 4, decoder,\nauxiliary head', ORANGE)
    arrow(axes, (11.0, 2.5), (11.5, 2.5), ORANGE)
    box(axes, 11.55, 2.1, 1.45, 0.8, 'loss', ORANGE)
    arrow(axes, (12.2, 2.0), (7.7, 0.18), ORANGE, line='--', bend=-0.18)
    axes.text(10.4, 0.28, 'backward: deep layers on k images', fontsize=9, color=ORANGE,
              ha='left')
    arrow(axes, (7.5, 0.15), (2.2, 1.8), BLUE, line='--', bend=-0.2)
    axes.text(0.15, 0.28, 'backward: shallow layers on all B', fontsize=9, color=BLUE, ha='left')
    arrow(axes, (7.62, 4.75), (6.2, 4.2), INK, line=':', bend=0.25)
    axes.text(7.75, 4.85, 'the retained images move the centroids', fontsize=9, color=INK,
              va='center')
    out = Path(__file__).with_suffix('.png')
    figure.savefig(out, dpi=110, bbox_inches='tight')


if __name__ == '__main__':
    main()
