"""How far two ways to score a batch agree."""

import torch
from torch import Tensor


def overlap(first: list[int], second: list[int]) -> float:
    """Return the share of the images of ``first`` that ``second`` holds as well.

    Two random choices of ``k`` among ``B`` images overlap by ``k / B``.

    Example:
        >>> overlap([0, 2, 3, 5], [0, 1, 2, 3])
        0.75

    Raises:
        ValueError: If ``first`` is empty.
    """
    if not first:
        raise ValueError('Expected argument `first` to hold an image, but got none.')
    return len(set(first) & set(second)) / len(first)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two score vectors of shape ``(B,)``.

    It is 1 for the same order, -1 for the reverse order and NaN if one of them is constant. Equal
    values share the mean of their ranks.

    Example:
        >>> rank_correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.2, 0.3]))
        1.0

    Raises:
        ValueError: If the shapes differ.
    """
    if first.shape != second.shape or first.dim() != 1:
        raise ValueError(
            'Expected two score vectors of one shape, but got '
            f'{tuple(first.shape)} and {tuple(second.shape)}.'
        )
    ranks = torch.stack([_ranks(first), _ranks(second)])
    return round(torch.corrcoef(ranks)[0, 1].item(), 12)


def _ranks(values: Tensor) -> Tensor:
    # The number of smaller values and half of the equal ones.
    smaller = (values[None, :] < values[:, None]).sum(dim=1)
    equal = (values[None, :] == values[:, None]).sum(dim=1)
    return smaller.double() + (equal - 1).double() / 2
