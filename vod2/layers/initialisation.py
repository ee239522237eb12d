"""How new layers begin: weights drawn from a distribution, biases 0."""

from torch import nn

Layer = nn.Linear | nn.Conv2d


def init_xavier(*layers: Layer) -> None:
    """Weights uniform in +-sqrt(3 / fan in), biases 0: as the fully connected layers of a Detectron2 box head begin.

    Example:
        >>> import torch
        >>> from vod2.layers import init_xavier
        >>> layer = torch.nn.Linear(12, 4)
        >>> init_xavier(layer)
        >>> bool(layer.weight.abs().max() <= 0.5), layer.bias.tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
    """
    for layer in layers:
        # fvcore's c2_xavier_fill, which Detectron2 uses: Caffe2's Xavier counts the inputs only.
        nn.init.kaiming_uniform_(layer.weight, a=1)
        zero_bias(layer)


def init_normal(*layers: Layer, std: float) -> None:
    """Weights normal with mean 0 and standard deviation `std`, biases 0."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
        zero_bias(layer)


def init_he(*layers: Layer, slope: float = 0.0) -> None:
    """Weights normal with variance 2 / (fan in (1 + slope^2)), biases 0 (He et al., ICCV 2015).

    Args:
        layers: each is followed by a ReLU.
        slope: of the ReLU below 0.
    """
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, a=slope)
        zero_bias(layer)


def zero_bias(layer: Layer) -> None:
    """Set the bias of a layer that has one to 0."""
    assert layer.bias is not None, f"{layer} has no bias"
    nn.init.zeros_(layer.bias)
