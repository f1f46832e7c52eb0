"""Classes that need a package which may be missing, or may not fit the others installed.

A user of one host package must not be disturbed by the state of another.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from mmpfb.errors import MissingExtraError

EXTRAS = {
    'mmsegmentation': "'onedl' or 'openmmlab'",
    'mmpretrain': "'onedl-mmpretrain' or 'openmmlab-mmpretrain'",
}


def import_optional(
    registry: Any, module: str, names: Iterable[str], package: str
) -> dict[str, Any]:
    """Import a module that registers classes; if that fails, register refusals in their place.

    Args:
        registry: Registry of MMEngine that the classes register in.
        module: Module to import.
        names: Classes that it defines.
        package: Distribution that the module needs, a key of :data:`EXTRAS`.

    Returns:
        The classes by name; empty if the import failed. Then building one of them raises a
        :class:`mmpfb.errors.MissingExtraError` that tells why.
    """
    try:
        imported = import_module(module)
    except Exception as error:  # noqa: BLE001 - version checks of the hosts assert
        for name in names:
            registry.register_module(name=name, module=_refusal(name, package, error))
        return {}
    return {name: getattr(imported, name) for name in names}


def _refusal(name: str, package: str, error: Exception) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MissingExtraError(
            f'mmpfb.{name} needs the package {package}, whose import fails '
            f'({type(error).__name__}: {error}); install mmpfb with the extra {EXTRAS[package]}.'
        ) from error

    return refuse
