"""Models of the OpenMMLab stack that prune their batch; imported when a configuration names one."""

from importlib.util import find_spec
from typing import Any

from mmpfb.errors import MissingExtraError
from mmpfb.registry import MODELS

__all__: list[str] = []


def _register_missing(name: str, package: str) -> None:
    """Register a name whose use tells which package it needs."""

    def missing(*args: Any, **kwargs: Any) -> None:
        raise MissingExtraError(
            f"mmpfb.{name} needs the package {package}, which is not installed: install "
            "mmpfb with the extra 'onedl' or 'openmmlab'."
        )

    MODELS.register_module(name=name, module=missing)


# A package that is not installed must not disturb the users of the other one.
if find_spec('mmseg') is not None:
    from mmpfb.models.segmentors import PFBCascadeEncoderDecoder, PFBEncoderDecoder

    __all__ += ['PFBCascadeEncoderDecoder', 'PFBEncoderDecoder']
else:
    for _name in ('PFBEncoderDecoder', 'PFBCascadeEncoderDecoder'):
        _register_missing(_name, 'mmsegmentation')
