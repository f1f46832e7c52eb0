"""What pruning can save at best: the structural bounds of both modes.

A pass forward through a layer costs a third of a training step of that layer; the backward pass
computes the gradients of inputs and of weights, which cost as much each.
"""

from collections.abc import Iterable

from mmpfb.core.checks import check_choice, check_ratio, check_share

FORWARD_SHARE = 1 / 3


def saving_bound(ratio: float, share: float, mode: str, score_scale: float = 1.0) -> float:
    """Return the largest share of the work of a training step that pruning can save.

    With ``'reuse'`` all images pay for what lies before the cut, forward and backward:
    ``p (1 - s)``. With ``'rescore'`` all images pay for one pass forward to the cut, at reduced
    resolution if asked for: ``p - s * scale**2 / 3``.

    Args:
        ratio: Share of the images that are pruned, in [0, 1).
        share: Share ``s`` of the work of a step that lies before the cut, in [0, 1].
        mode: ``'reuse'`` or ``'rescore'``.
        score_scale: Factor on both sides of the images that are scored, in (0, 1].

    Example:
        >>> round(saving_bound(0.3, share=0.142, mode='reuse'), 3)
        0.257
        >>> round(saving_bound(0.3, share=0.142, mode='rescore', score_scale=0.5), 3)
        0.288

    Raises:
        ValueError: If an argument is out of range.
    """
    check_ratio('ratio', ratio)
    check_choice('mode', mode, ('reuse', 'rescore'))
    if mode == 'reuse':
        return ratio * (1 - share)
    return ratio - share * FORWARD_SHARE * check_share('score_scale', score_scale) ** 2


def modes_by_cost(
    ratio: float, score_scales: Iterable[float], needs_features: bool = True
) -> list[tuple[str, float]]:
    """Return the modes and the scales of their scores, the one that saves most first.

    The share ``s`` before the cut does not matter: all that ``'reuse'`` saves less than the ratio
    is ``p s``, and all that ``'rescore'`` does is ``s * scale**2 / 3``.

    Args:
        ratio: Share of the images that are pruned, in [0, 1).
        score_scales: Scales at which ``'rescore'`` may score.
        needs_features: Whether the choice depends on the images; if not, nothing is scored.

    Example:
        >>> modes_by_cost(0.3, [1.0, 0.5])
        [('rescore', 0.5), ('reuse', 1.0), ('rescore', 1.0)]

    Raises:
        ValueError: If an argument is out of range.
    """
    costs = {('reuse', 1.0): check_ratio('ratio', ratio)}
    for scale in score_scales:
        scoring = FORWARD_SHARE * check_share('score_scales', scale) ** 2
        costs['rescore', scale] = scoring if needs_features else 0.0
    return sorted(costs, key=lambda choice: costs[choice])
