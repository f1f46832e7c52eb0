"""Draws the outcome of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpfb.analysis.comparison import MethodRow


def draw(rows: Sequence[MethodRow], metric: str, path: Path) -> None:
    """Draw the metric against the training FLOPs, a point per method with its deviation.

    Args:
        rows: One row per method; those without a result are named in the legend alone.
        metric: Name of the metric.
        path: File to write.

    Raises:
        ValueError: If no method has a result.
    """
    # Imported here: only those who draw need matplotlib.
    from matplotlib.figure import Figure

    done: list[Any] = [row for row in rows if row.metric is not None]
    if not done:
        raise ValueError('Expected a finished run to draw, but there is none.')
    counted = all(row.flops is not None for row in done)
    figure = Figure(figsize=(7.5, 4.8), layout='constrained')
    axes = figure.subplots()
    for number, row in enumerate(done):
        work = row.flops if counted else row.images_trained
        axes.errorbar(
            work, row.metric, yerr=row.deviation, label=row.caption, color=f'C{number % 10}',
            marker='osD^vP*X<>'[number % 10], markersize=7, capsize=4, linestyle='none',
        )
    for row in rows:
        if row.metric is None:
            reason = 'failed' if row.failures else 'not finished'
            axes.plot([], [], linestyle='none', label=f'{row.caption} ({reason})')
    axes.set_xlabel('training FLOPs' if counted else 'images trained on')
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    seeds = sorted({row.num_runs for row in done})
    axes.set_title(f'Mean and standard deviation over {_seeds_text(seeds)}', fontsize=10)
    axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def _seeds_text(seeds: Sequence[int]) -> str:
    if seeds == [1]:
        return 'one seed (no deviation)'
    return f'{seeds[0]} seeds' if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]} seeds'
