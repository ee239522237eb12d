"""Models by name, like `detectron2.model_zoo`: configurations, and trained weights for some of them.

A name is that of a configuration, such as "RDN_R101" or "quick/RDN". The weights of small models come with vod2
(vod2/checkpoints/README.md); others are published by those who trained them. Published weights belong to the
configurations of configs/published, which are the models of the code that trained them: "published/RDN_R101" is
another model than "RDN_R101". `PUBLISHED` lists them, with the mAP and the licence that their publishers state.

Example:
    >>> from vod2 import model_zoo
    >>> model_zoo.get_config("quick/RDN").MODEL.META_ARCHITECTURE
    'VideoRCNN'
    >>> model_zoo.get_checkpoint_url("SELSA_R101_mmtracking").split("/")[2]
    'download.openmmlab.com'
"""

from torch import nn

from vod2.checkpoint import load_weights
from vod2.checkpoint.sources.published import PUBLISHED, PublishedModel
from vod2.d2 import CfgNode, build_model
from vod2.engine import load_config
from vod2.engine.zoo import find_published, published_weights, require_published, stem_of, trained_weights
from vod2.package_files import find_config

__all__ = [
    "PUBLISHED",
    "PublishedModel",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "published_weights",
    "trained_weights",
]


def get_config_file(name: str) -> str:
    """The path of a configuration.

    Args:
        name: of a configuration, with or without ".yaml", or the alias of a published model.

    Raises:
        UserError: there is no such configuration.
    """
    published = find_published(name)
    file = find_config(published.config if published else f"{stem_of(name)}.yaml")
    load_config(file)  # says what is like it where it does not exist
    return file


def get_checkpoint_url(name: str) -> str:
    """Where the published weights of a model are.

    Raises:
        UserError: nobody has published any.
    """
    return require_published(name).url


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The configuration of a name.

    Args:
        name: see `get_config_file`.
        trained: MODEL.WEIGHTS are the trained weights of that model, which come with vod2 or are published and are
            downloaded and converted if need be; otherwise they are what the configuration begins its training with.

    Raises:
        UserError: there is no such configuration, or there are no weights for it, or see `published_weights`.
    """
    weights = trained_weights(name) if trained else None
    cfg = load_config(get_config_file(name))
    if weights is not None:
        cfg.MODEL.WEIGHTS = weights
    return cfg


def get(name: str, trained: bool = True, device: str | None = None) -> nn.Module:
    """A model, in evaluation mode.

    Args:
        name: see `get_config_file`.
        trained: with its trained weights; otherwise with random ones.
        device: of its parameters; by default MODEL.DEVICE, a GPU where there is one.

    Raises:
        UserError: see `get_config`.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval()
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
    return model
