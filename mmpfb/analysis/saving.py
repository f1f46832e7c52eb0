"""What pruning can save at best: the structural bounds of both modes.

A pass forward through a layer costs a third of a training step of that layer; the backward pass
computes the gradients of inputs and of weights, which cost as much each.
"""

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


def cheaper_mode(ratio: float, score_scale: float = 1.0, needs_features: bool = True) -> str:
    """Return the mode whose bound is larger, ``'reuse'`` or ``'rescore'``.

    The share before the cut does not matter: pruning it backward and forward saves ``p s``, and
    scoring costs ``s * scale**2 / 3``.

    Args:
        ratio: Share of the images that are pruned, in [0, 1).
        score_scale: Factor on both sides of the images that ``'rescore'`` scores.
        needs_features: Whether the choice depends on the images; if not, nothing is scored.

    Example:
        >>> cheaper_mode(0.3), cheaper_mode(0.5), cheaper_mode(0.3, score_scale=0.5)
        ('reuse', 'rescore', 'rescore')
    """
    scoring = FORWARD_SHARE * score_scale**2 if needs_features else 0.0
    return 'rescore' if ratio > scoring else 'reuse'
