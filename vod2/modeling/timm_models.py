"""Models of timm as the configuration names them: what it refuses is told in one sentence."""

import difflib
import os
import re
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from vod2.d2 import CfgNode, ShapeSpec
from vod2.errors import UserError

# Arguments by which models that expect images of one size take any; a model that knows none of them has no such size
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}
_KEY_OF_ARGUMENT = {"drop_path_rate": "DROP_PATH", "output_stride": "OUTPUT_STRIDE"}
_REFUSED_ARGUMENT = re.compile(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(\w+)'")


class TimmSettings(NamedTuple):
    """What MODEL.TIMM says of the model itself.

    Attributes:
        name: of the model, with or without the tag of its weights.
        in_channels: of an image.
        pretrained: whether it begins with the weights that timm downloads.
        weights: a file of such weights that it begins with; "" for none.
        drop_path: probability, in [0, 1), that a block is left out in training.
        output_stride: least of 32 and the stride at which the model stops halving its maps, dilating instead.
        options: further arguments of the model, pairs of name and value.
    """

    name: str
    in_channels: int = 3
    pretrained: bool = False
    weights: str = ""
    drop_path: float = 0.0
    output_stride: int = 32
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> "TimmSettings":
        """
        Raises:
            UserError: OPTIONS are no pairs, or DROP_PATH is no probability.
        """
        node = cfg.MODEL.TIMM
        for pair in node.OPTIONS:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f'MODEL.TIMM.OPTIONS has {pair!r}: expected pairs, such as [["embed_dim", 96]]')
        if not 0 <= node.DROP_PATH < 1:
            raise UserError(f"MODEL.TIMM.DROP_PATH is {node.DROP_PATH}: expected a probability, at least 0 and below 1")
        # Weights of the whole detector would replace them.
        begins = not cfg.MODEL.WEIGHTS
        return cls(
            name=node.NAME,
            in_channels=input_shape.channels,
            pretrained=node.PRETRAINED and begins,
            weights=node.WEIGHTS if begins else "",
            drop_path=node.DROP_PATH,
            output_stride=node.OUTPUT_STRIDE,
            options=tuple((name, value) for name, value in node.OPTIONS),
        )


def import_timm() -> ModuleType:
    """
    Raises:
        UserError: timm is not installed, or does not import.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"backbones of timm need it, and it does not import ({error}): pip install 'vod2[timm]'"
        ) from error
    return timm


def create_timm_model(settings: TimmSettings, *, load: bool = True, **arguments: Any) -> nn.Module:
    """The model that the settings name, for images of any size.

    Args:
        settings: of the model.
        load: False leaves it with random weights, whatever the settings say.
        arguments: of `timm.create_model`, such as features_only.

    Raises:
        UserError: timm is missing, does not have the model or its weights, or the model does not take what is set, or
            takes images of one size alone.

    Example:
        >>> from vod2.modeling.timm_models import TimmSettings, create_timm_model
        >>> model = create_timm_model(TimmSettings("test_convnext"), features_only=True)  # doctest: +SKIP
        >>> model.feature_info.reduction()  # doctest: +SKIP
        [4, 8, 16, 32]
    """
    timm = import_timm()
    if not timm.is_model(settings.name):
        close = difflib.get_close_matches(settings.name.partition(".")[0], timm.list_models(), n=5)
        likely = f": did you mean {', '.join(close)}?" if close else ", of which timm.list_models() has a list"
        raise UserError(f"MODEL.TIMM.NAME is {settings.name!r}, no model of timm {timm.__version__}{likely}")
    arguments = {"in_chans": settings.in_channels} | arguments | dict(settings.options)
    optional: dict[str, Any] = dict(_ANY_SIZE)
    # Of some models it is above 0 by default: it is set wherever there is one.
    (arguments if settings.drop_path else optional)["drop_path_rate"] = settings.drop_path
    if settings.output_stride != 32:
        arguments["output_stride"] = settings.output_stride
    sources = _sources(settings) if load else {}
    while True:
        try:
            model = timm.create_model(settings.name, **arguments, **optional, **sources)
            break
        except TypeError as error:
            refused = _REFUSED_ARGUMENT.search(str(error))
            if refused is None or refused[1] not in optional:
                raise _not_taken(settings, refused[1] if refused else None, error) from error
            del optional[refused[1]]
        # What a download, a file or a model raises is of many kinds; all of it is about these few settings.
        except Exception as error:
            raise _not_made(settings, bool(sources), error) from error
    if getattr(model, "default_cfg", {}).get("fixed_input_size") and not {"dynamic_img_size", "strict_img_size"} & {
        *optional
    }:
        raise UserError(f"MODEL.TIMM.NAME is {settings.name!r}, which takes images of one size alone: choose another")
    return model


def _sources(settings: TimmSettings) -> dict[str, Any]:
    """The arguments of `timm.create_model` that say where weights come from."""
    if settings.weights:
        if not os.path.isfile(settings.weights):
            raise UserError(
                f"MODEL.TIMM.WEIGHTS is {settings.weights!r}, where no file is: give a file of timm's weights, or ''"
            )
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": settings.weights}}
    return {"pretrained": True} if settings.pretrained else {}


def _not_taken(settings: TimmSettings, argument: str | None, error: Exception) -> UserError:
    name = settings.name
    if argument is None:
        return UserError(f"MODEL.TIMM.NAME is {name!r}, which timm does not make with these settings: {_line(error)}")
    key = _KEY_OF_ARGUMENT.get(argument, "OPTIONS")
    what = "it" if key != "OPTIONS" else repr(argument)
    return UserError(f"MODEL.TIMM.{key} is set, but {name} of timm does not take {what}: leave it out")


def _not_made(settings: TimmSettings, loading: bool, error: Exception) -> UserError:
    if loading and settings.weights:
        return UserError(
            f"MODEL.TIMM.WEIGHTS is {settings.weights!r}, which {settings.name} does not load: {_line(error)}"
        )
    if loading:
        return UserError(
            f"MODEL.TIMM.PRETRAINED is True, but the weights of {settings.name} could not be downloaded "
            f"({_line(error)}): give a file in MODEL.TIMM.WEIGHTS, or set MODEL.TIMM.PRETRAINED False"
        )
    return UserError(f"MODEL.TIMM.NAME is {settings.name!r}, which timm does not make: {_line(error)}")


def _line(error: Exception) -> str:
    """The beginning of an error's message as part of one sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
