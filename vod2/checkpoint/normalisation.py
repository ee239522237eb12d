"""A normalisation divides by the root of the variance plus something small, and not everybody adds the same."""

from collections.abc import Mapping

from torch import Tensor

from vod2.checkpoint.sources.rules import of_resnet

WORDS = "x root of (variance + eps here) / (variance + eps there)"


def rescaled_weights(state: Mapping[str, Tensor], eps: float, model_eps: float) -> dict[str, Tensor]:
    """Weights of the ResNet's normalisations with which a model that adds `model_eps` computes the same.

    The factor goes into the weight: a small variance would not survive a sum or difference in its own precision.

    Args:
        state: {vod2's name: tensor}.
        eps: what was added to the variance where the weights are from.
        model_eps: what the model adds.

    Returns:
        {name: float64 tensor} of the weights that change.

    Raises:
        ValueError: if a variance plus `eps` is not positive: nothing finite is computed there.
    """
    rescaled = {}
    for name, found in state.items():
        weight = name.removesuffix("running_var") + "weight"
        if of_resnet(name) and name.endswith(".running_var") and weight in state:
            variance = found.double()
            if not (variance + eps > 0).all():
                raise ValueError(f"{name!r} + {eps:g} is not positive everywhere, a normalisation divides by its root")
            factor = ((variance + model_eps) / (variance + eps)).sqrt()
            if (factor != 1).any():
                rescaled[weight] = state[weight].double() * factor
    return rescaled
