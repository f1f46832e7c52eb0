"""How many images a run that prunes in the batch will train on, before it begins."""

from mmpfb.core.budget import RetainedBudget
from mmpfb.core.schedule import PruningWindow, scheduled_ratio


def planned_images(
    iterations: int,
    batch_size: int,
    window: PruningWindow,
    ratio: float,
    min_keep: int = 1,
    ramp: float = 0.0,
    ramp_from: float = 0.0,
) -> int:
    """Return the number of images that are trained on in all iterations of a run.

    Args:
        iterations: Length of the run.
        batch_size: Number of images in a batch.
        window: Iterations in which images are pruned.
        ratio: Share of the images that are pruned there.
        min_keep: Fewest images to retain.
        ramp: See :func:`mmpfb.core.schedule.scheduled_ratio`.
        ramp_from: Likewise.

    Example:
        >>> planned_images(100, batch_size=8, window=PruningWindow(20, 100), ratio=0.5)
        480
    """
    budget = RetainedBudget()
    images = 0
    for iteration in range(iterations):
        if iteration in window:
            now = scheduled_ratio(iteration, window, ratio, ramp, ramp_from)
            images += budget.take(batch_size, now, min_keep)
        else:
            images += batch_size
    return images
