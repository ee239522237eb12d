"""Training and evaluation mode of a model."""

from torch import nn


def require_eval(model: nn.Module) -> None:
    """A stream is detected in with fixed statistics and without losses.

    Raises:
        RuntimeError: if the model is in training mode.
    """
    if model.training:
        raise RuntimeError("a stream needs a model in evaluation mode: call model.eval() first")
