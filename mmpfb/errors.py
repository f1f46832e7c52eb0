"""Errors and warnings of the package; plain wrong argument values are ``ValueError``."""


class LocationError(ValueError):
    """The batch cannot be cut at the requested place of the model."""


class EstimatorStateError(ValueError):
    """A saved selector or estimator state does not fit the object that shall take it."""


class ImageLossError(ValueError):
    """The losses of single images cannot be told from the loss functions of a model."""


class MissingExtraError(ImportError):
    """A component needs a package that is not installed."""


class NoEffectWarning(UserWarning):
    """A setting is legal but changes nothing, so the user would wait for an effect in vain."""
