"""Which pruning model stands for which model of a host."""

from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS

from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.registry import MODELS


def resolve_model(kind: Any, scope: str | None = None) -> Any:
    """Return the class that the ``type`` of a model names, or what was given if that is no name.

    Args:
        kind: Name, with or without a scope, or class.
        scope: Scope in which the name is looked up; None means the default scope.
    """
    if not isinstance(kind, str):
        return kind
    with ROOT_MODELS.switch_scope_and_registry(scope) as registry:
        return registry.get(kind)


def pruning_class(kind: Any, scope: str | None = None) -> Any:
    """Return the class that prunes in place of a model; that model itself if it does.

    Raises:
        TypeError: If there is none.
    """
    stock = resolve_model(kind, scope)
    if _prunes(stock):
        return stock
    for model in _pruning_models():
        if stock in model.__bases__:
            return model
    names = sorted(_stock_base(model).__name__ for model in _pruning_models())
    raise TypeError(
        f'Expected the `type` of the model to be one that prunes or one of {", ".join(names)}, '
        f'but got {kind!r}.'
    )


def pruning_type(kind: Any, scope: str | None = None) -> Any:
    """Return the ``type`` that prunes in place of the ``type`` of a model.

    Raises:
        TypeError: If there is none.
    """
    model = pruning_class(kind, scope)
    return kind if model is resolve_model(kind, scope) else f'mmpfb.{model.__name__}'


def stock_type(kind: Any, scope: str | None = None) -> Any:
    """Return the ``type`` of the host's model in whose place a model prunes."""
    model = resolve_model(kind, scope)
    if not _prunes(model):
        return kind
    stock = _stock_base(model)
    return f'{stock.__module__.partition(".")[0]}.{stock.__name__}'


def _prunes(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, BatchPruningMixin)


def _pruning_models() -> list[Any]:
    return [model for model in MODELS.module_dict.values() if _prunes(model)]


def _stock_base(model: Any) -> Any:
    return next(base for base in model.__mro__ if not issubclass(base, BatchPruningMixin))
