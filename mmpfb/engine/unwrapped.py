"""The model of a runner as it was configured."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrapped_model(runner: Runner) -> nn.Module:
    """Return the model of a runner without its wrappers for distributed training."""
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model
