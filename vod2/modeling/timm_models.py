"""Models of timm as the configuration names them: what it refuses is told in one sentence."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vod2.d2 import Backbone, CfgNode, ShapeSpec
from vod2.errors import UserError

# Arguments by which models that expect images of one size take any; a model that knows none of them has no such size
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}
_KEY_OF_ARGUMENT = {"drop_path_rate": "DROP_PATH", "output_stride": "OUTPUT_STRIDE"}
_REFUSED_ARGUMENT = re.compile(r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(\w+)'")
_REFUSED_ARGUMENTS = re.compile(r"unexpected keyword argument\(s\): \[(.*?)\]")  # as some models of timm say it
# Of Swin and its like, whose parts do not say it: what timm's own training does not decay
_UNDECAYED = ("relative_position_bias_table", "absolute_pos_embed", "logit_scale", "cpb_mlp")

_LOGGER = logging.getLogger(__name__)


class TimmSettings(NamedTuple):
    """What MODEL.TIMM says of the model itself.

    Attributes:
        name: of the model, with or without the tag of its weights.
        in_channels: of an image.
        pretrained: whether a training begins with the weights that timm downloads.
        weights: a file of such weights that it begins with instead; "" for none.
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
        return cls(
            name=node.NAME,
            in_channels=input_shape.channels,
            pretrained=node.PRETRAINED,
            weights=node.WEIGHTS,
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


class TimmModel(Backbone):
    """What backbones of timm have in common: a training begins with the weights that MODEL.TIMM names.

    Attributes:
        model: of timm, or the part of it that is used.
        settings, arguments: of `create_timm_model`, which has made it; None and {} for a model from elsewhere.
    """

    model: Any
    settings: TimmSettings | None = None
    arguments: Mapping[str, Any] = MappingProxyType({})

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's own training does not decay, where its modules do not say so themselves."""
        return {name for name, _ in self.named_parameters() if any(part in name for part in _UNDECAYED)}

    def load_pretrained(self) -> bool:
        """Begin with the weights that the settings name; returns whether they name any.

        Raises:
            UserError: they cannot be had, or are of another model.
        """
        settings = self.settings
        if settings is None or not (settings.weights or settings.pretrained):
            return False
        # From one seed: what no weights are loaded for is equal in both.
        models = []
        for load in (True, False):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                models.append(create_timm_model(settings, load=load, **self.arguments))
        loaded, random = models
        begun = random.state_dict()
        lacking = [
            name for name, value in loaded.named_parameters() if value.equal(begun[name]) and not _is_constant(value)
        ]
        if lacking:
            given = (
                f"MODEL.TIMM.WEIGHTS is {settings.weights!r}" if settings.weights else "MODEL.TIMM.PRETRAINED is True"
            )
            raise UserError(
                f"{given}, but there are no weights for {len(lacking)} parameters of {settings.name}, such as "
                f"{lacking[0]}: give a file of this model as timm names its parameters"
            )
        state = loaded.state_dict()
        self.model.load_state_dict({name: state[name] for name in self.model.state_dict()})
        return True


def _is_constant(value: torch.Tensor) -> bool:
    """Whether a parameter may have the same values before and after weights were loaded."""
    return value.numel() < 2 or bool((value == value.flatten()[0]).all())


def load_pretrained(model: nn.Module) -> None:
    """Let the backbones of timm in a model that has no other weights begin with those that MODEL.TIMM names.

    Warns where BatchNorm is frozen as it was drawn.

    Raises:
        UserError: see `TimmModel.load_pretrained`.
    """
    for module in model.modules():
        if isinstance(module, TimmModel) and not module.load_pretrained():
            norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
            if any(not norm.training and not norm.weight.requires_grad for norm in norms if norm.affine):
                _LOGGER.warning(
                    "MODEL.TIMM.FREEZE_NORM is True, and no weights are loaded: BatchNorm keeps a mean of 0 and a "
                    "variance of 1 for good; set it to False, or MODEL.TIMM.PRETRAINED to True"
                )


def create_timm_model(settings: TimmSettings, *, load: bool = False, **arguments: Any) -> nn.Module:
    """The model that the settings name, for images of any size.

    Args:
        settings: of the model.
        load: whether it gets the weights that the settings name; else they are drawn.
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
            refused = _refused_by(error)
            unknown = [name for name in refused if name not in optional]
            if unknown or not refused:
                raise _not_taken(settings, unknown[0] if unknown else None, error) from error
            for name in refused:
                del optional[name]
        # What a download, a file or a model raises is of many kinds; all of it is about these few settings.
        except Exception as error:
            raise _not_made(settings, bool(sources), error) from error
    if getattr(model, "default_cfg", {}).get("fixed_input_size") and not {"dynamic_img_size", "strict_img_size"} & {
        *optional
    }:
        raise UserError(f"MODEL.TIMM.NAME is {settings.name!r}, which takes images of one size alone: choose another")
    return model


def _refused_by(error: TypeError) -> list[str]:
    """The arguments that a model does not take, as far as the error names them."""
    if one := _REFUSED_ARGUMENT.search(str(error)):
        return [one[1]]
    several = _REFUSED_ARGUMENTS.search(str(error))
    return re.findall(r"\w+", several[1]) if several else []


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
