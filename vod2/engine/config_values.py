"""Values of a configuration that no detector, schedule or solver can be built of."""

import math
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

from vod2.bounded import shown
from vod2.d2 import CfgNode
from vod2.errors import UserError
from vod2.keys import default_config, leaves

# A key, or the end of several, and the least number that it, or each of its numbers, may be.
_LEAST: dict[str, float] = {
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 0,
    "SOLVER.BASE_LR": 0,
    "SOLVER.BASE_LR_END": 0,
    "SOLVER.BIAS_LR_FACTOR": 0,
    "SOLVER.MOMENTUM": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.WARMUP_FACTOR": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
    "INPUT.MIN_SIZE_TRAIN": 0,
    "INPUT.MIN_SIZE_TEST": 0,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0,
    "BATCH_SIZE_PER_IMAGE": 1,
    "POSITIVE_FRACTION": 0,
    "NMS_THRESH": 0,
    "NMS_THRESH_TEST": 0,
    "PRE_NMS_TOPK_TRAIN": 1,
    "PRE_NMS_TOPK_TEST": 1,
    "POST_NMS_TOPK_TRAIN": 1,
    "POST_NMS_TOPK_TEST": 1,
    "SMOOTH_L1_BETA": 0,
    "NUM_FC": 0,
    "NUM_CONV": 0,
    "FC_DIM": 1,
    "CONV_DIM": 1,
    "POOLER_RESOLUTION": 1,
    "NUM_HEADS": 1,
    "STEM_CHANNELS": 1,
    "CHANNELS": 1,
    "STRIDES": 1,
    "BLOCKS": 1,
}
_SHARES = ("POSITIVE_FRACTION", "NMS_THRESH", "NMS_THRESH_TEST")  # at most 1
_NOT_EMPTY = (
    "INPUT.MIN_SIZE_TRAIN",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.RPN.IOU_THRESHOLDS",
    "MODEL.ROI_HEADS.IOU_THRESHOLDS",
    "CHANNELS",
    "BLOCKS",
    "STRIDES",
)


# A number in a message; not the digits within a name, as in res4.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:e[+-]?\d+)?(?!\w)")


def check_values(cfg: CfgNode) -> None:
    """Refuse values of another type than the default, numbers that are not finite or too small, and empty lists.

    Raises:
        UserError: names every such key, its value and what was expected.

    Example:
        >>> from vod2.keys import default_config
        >>> cfg = default_config()
        >>> cfg.SOLVER.BASE_LR = float("nan")
        >>> check_values(cfg)
        Traceback (most recent call last):
            ...
        vod2.errors.UserError: SOLVER.BASE_LR is nan, expected a finite number: fix it in the configuration
    """
    defaults = dict(leaves(default_config()))
    faults = []
    for key, value in leaves(cfg):
        # Keys without a default were added by a script, which knows what it reads.
        expected = _expected(key, value, defaults[key]) if key in defaults else None
        if expected is not None:
            faults.append(f"{key} is {shown(value)}, expected {expected}")
    if faults:
        raise UserError(f"{'; '.join(faults)}: fix {'it' if len(faults) == 1 else 'them'} in the configuration")


def _expected(key: str, value: Any, default: Any) -> str | None:
    """What the value should be; None where it may be as it is."""
    if value == default or default is None:
        return None
    if isinstance(default, list | tuple):
        return _expected_of_list(key, value, default)
    if isinstance(default, bool) or isinstance(value, bool):
        wrong = isinstance(default, bool) != isinstance(value, bool)
        return "True or False" if wrong and isinstance(default, bool) else None
    if isinstance(default, str):
        return None if isinstance(value, str) else "a text"
    if not isinstance(value, Real):
        return "a number"
    if isinstance(default, int) and not isinstance(value, int):
        return "a whole number"
    return _expected_of_number(key, value, default)


def _expected_of_list(key: str, value: Any, default: list | tuple) -> str | None:
    if not isinstance(value, list | tuple):
        return "a list"
    if not len(value):
        return "a list that is not empty" if _is_among(key, _NOT_EMPTY) else None
    flat, flat_default = list(_flat(value)), list(_flat(default))
    texts = key in ("DATASETS.TRAIN", "DATASETS.TEST", "TRACKING.WRITERS") or (
        flat_default and isinstance(flat_default[0], str)
    )
    if texts:
        return None if all(isinstance(one, str) for one in flat) else "a list of names"
    if not flat_default or not all(isinstance(one, Real) for one in flat_default):
        return None
    if not flat or not all(isinstance(one, Real) for one in flat):
        return "a list of numbers"
    return next((wrong for one in flat if (wrong := _expected_of_number(key, one, flat_default[0]))), None)


def _expected_of_number(key: str, value: Any, default: Any) -> str | None:
    # What holds whole numbers later on, in NumPy, PyTorch and SQLite, has 64 bits.
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a whole number below 2^63"
    if not math.isfinite(value):
        return "a finite number" if math.isfinite(default) or math.isnan(value) else None
    least = next((bound for name, bound in _LEAST.items() if _is_among(key, (name,))), None)
    if least is not None and value < least:
        return f"at least {least:g}"
    return "at most 1" if _is_among(key, _SHARES) and value > 1 else None


def _is_among(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.endswith(f".{name}") for name in names)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


@contextmanager
def building(cfg: CfgNode) -> Iterator[None]:
    """What a component says of values that it cannot be built of becomes a UserError that names component and keys.

    Its constructors know arguments, not keys: the keys are those whose value stands in the message.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(_sentence(cfg, error)) from error
    except RuntimeError as error:
        # PyTorch's word for a layer of negative width; other RuntimeErrors, as of a full GPU, are not of a value.
        if "negative dimension" not in str(error):
            raise
        raise UserError(_sentence(cfg, error)) from error


def _sentence(cfg: CfgNode, error: Exception) -> str:
    reason = " ".join(str(error.args[0] if error.args else error).split())
    named = [key for key, value in leaves(cfg) if _stands_in(value, reason)]
    where = f": check {', '.join(named[:4])}" if named else ": check the keys that it is built of (docs/config.md)"
    return f"{_component(error)} cannot be built of this configuration ({type(error).__name__}: {reason:.200}){where}"


def _stands_in(value: Any, reason: str) -> bool:
    """Whether a message contains the value of a key: as a whole word, or as the same sequence of numbers."""
    # Short values, such as 0 or '', are in any sentence.
    if value in (0, 1, -1, True, False, "", None) or len(repr(value)) <= 2:
        return False
    flat = list(_flat(value)) if isinstance(value, list | tuple) else [value]
    if flat and all(isinstance(entry, Real) for entry in flat):
        # Compared as numbers: a message may show a list as a tensor, with brackets of its own.
        numbers = [float(number) for number in _NUMBER.findall(reason)]
        count = len(flat)
        return any(numbers[start : start + count] == flat for start in range(len(numbers) - count + 1))
    return re.search(rf"(?<!\w){re.escape(repr(value))}(?!\w)", reason) is not None


def _component(error: Exception) -> str:
    """The class whose constructor was at work, the innermost of the project's, Detectron2's or a user's."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        if "self" in frame.f_locals and frame.f_code.co_name == "__init__" and not module.startswith("torch"):
            return type(frame.f_locals["self"]).__name__
    return "the detector"
