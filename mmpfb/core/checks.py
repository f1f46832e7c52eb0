"""Argument checks shared by the public doors of the package."""

import math
from numbers import Integral, Real
from typing import Any

import torch


def check_ratio(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a prune ratio in [0, 1).

    Args:
        name: Name of the argument, for the message.
        value: Value to check.

    Raises:
        ValueError: If ``value`` is not a finite number in [0, 1).
    """
    if not _is_number(value) or not 0 <= float(value) < 1:
        raise ValueError(f'Expected argument `{name}` to be in [0, 1), but got {value!r}.')
    return float(value)


def check_share(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is in (0, 1].

    Raises:
        ValueError: If ``value`` is not a finite number in (0, 1].
    """
    if not _is_number(value) or not 0 < float(value) <= 1:
        raise ValueError(f'Expected argument `{name}` to be in (0, 1], but got {value!r}.')
    return float(value)


def check_positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int if it is an integer of at least ``minimum``.

    Raises:
        ValueError: If ``value`` is not an integer or is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(
            f'Expected argument `{name}` to be an integer of at least {minimum}, but got {value!r}.'
        )
    return int(value)


def check_non_negative(name: str, value: Any, upper: float = math.inf) -> float:
    """Return ``value`` as a float if it is a finite number in [0, ``upper``].

    Raises:
        ValueError: If ``value`` is not finite or is out of the range.
    """
    if not _is_number(value) or not 0 <= float(value) <= upper or math.isinf(value):
        bound = 'a finite number of at least 0' if upper == math.inf else f'in [0, {upper:g}]'
        raise ValueError(f'Expected argument `{name}` to be {bound}, but got {value!r}.')
    return float(value)


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ValueError: If it is anything else, a text such as 'no' for example.
    """
    if not isinstance(value, bool):
        raise ValueError(f'Expected argument `{name}` to be True or False, but got {value!r}.')
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: If it is not; the message lists the choices.
    """
    if value not in choices:
        raise ValueError(
            f'Expected argument `{name}` to be one of {", ".join(map(repr, choices))}, '
            f'but got {value!r}.'
        )
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_device(name: str) -> torch.device:
    """Return the device of a name such as ``'cpu'`` or ``'cuda:0'``.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'Expected a device of this machine, but got {device} and found no GPU.')
    return device
