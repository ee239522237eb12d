"""Configuration: `CfgNode`, the default keys and values (`get_cfg`), and `configurable`."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import yaml
from fvcore.common.config import CfgNode as _FvcoreCfgNode
from yacs.config import CfgNode as _YacsCfgNode

from vod2._d2lite.utils.file_io import PathManager

__all__ = ["CfgNode", "configurable", "get_cfg"]

CONFIG_VERSION = 2

_POOLER = {"POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0, "POOLER_TYPE": "ROIAlignV2"}

# Every key of Detectron2 is here, so that any of its YAML files loads. Sections that no code of this package reads
# (masks, keypoints, semantic segmentation, cascades, RetinaNet) have no effect; what would need them fails in building.
_MODEL_DEFAULTS = {
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "DEVICE": "cuda",
    "WEIGHTS": "",
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    # per channel, in the order of INPUT.FORMAT
    "PIXEL_MEAN": [103.53, 116.28, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
    "RESNETS": {
        "DEPTH": 50,
        "OUT_FEATURES": ["res4"],
        "NORM": "FrozenBN",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": True,  # where the stride-2 convolution sits: True for the original MSRA weights, else False
        "RES5_DILATION": 1,
        "RES2_OUT_CHANNELS": 256,
        "STEM_OUT_CHANNELS": 64,
        "DEFORM_ON_PER_STAGE": [False, False, False, False],
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    },
    "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
    "ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64, 128, 256, 512]],  # square root of the area, in pixels of the resized image
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
        "ANGLES": [[-90, 0, 90]],
        "OFFSET": 0.0,
    },
    "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
    "RPN": {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        "CONV_DIMS": [-1],
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_BETA": 0.0,
        "LOSS_WEIGHT": 1.0,
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
    },
    "ROI_HEADS": {
        "NAME": "Res5ROIHeads",
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["res4"],
        "IOU_THRESHOLDS": [0.5],
        "IOU_LABELS": [0, 1],
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        "PROPOSAL_APPEND_GT": True,
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.5,
    },
    "ROI_BOX_HEAD": {
        "NAME": "",
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_BBOX_REG": False,
        "TRAIN_ON_PRED_BOXES": False,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "SMOOTH_L1_BETA": 0.0,
        "USE_SIGMOID_CE": False,
        "USE_FED_LOSS": False,
        "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
        "FED_LOSS_NUM_CLASSES": 50,
        **_POOLER,
    },
    "ROI_BOX_CASCADE_HEAD": {
        "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        "IOUS": (0.5, 0.6, 0.7),
    },
    "ROI_MASK_HEAD": {
        "NAME": "MaskRCNNConvUpsampleHead",
        "CLS_AGNOSTIC_MASK": False,
        "CONV_DIM": 256,
        "NORM": "",
        "NUM_CONV": 0,
        **_POOLER,
    },
    "ROI_KEYPOINT_HEAD": {
        "NAME": "KRCNNConvDeconvUpsampleHead",
        "CONV_DIMS": (512,) * 8,
        "LOSS_WEIGHT": 1.0,
        "MIN_KEYPOINTS_PER_IMAGE": 1,
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
        "NUM_KEYPOINTS": 17,
        **_POOLER,
    },
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "COMMON_STRIDE": 4,
        "CONVS_DIM": 128,
        "IGNORE_VALUE": 255,
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "LOSS_WEIGHT": 1.0,
        "NORM": "GN",
        "NUM_CLASSES": 54,
    },
    "PANOPTIC_FPN": {
        "INSTANCE_LOSS_WEIGHT": 1.0,
        "COMBINE": {
            "ENABLED": True,
            "INSTANCES_CONFIDENCE_THRESH": 0.5,
            "OVERLAP_THRESH": 0.5,
            "STUFF_AREA_LIMIT": 4096,
        },
    },
    "RETINANET": {
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "NUM_CONVS": 4,
        "NORM": "",
        "PRIOR_PROB": 0.01,
        "IOU_THRESHOLDS": [0.4, 0.5],
        "IOU_LABELS": [0, -1, 1],
        "FOCAL_LOSS_ALPHA": 0.25,
        "FOCAL_LOSS_GAMMA": 2.0,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "SCORE_THRESH_TEST": 0.05,
        "TOPK_CANDIDATES_TEST": 1000,
        "NMS_THRESH_TEST": 0.5,
    },
}

_DEFAULTS = {
    "VERSION": CONFIG_VERSION,
    "MODEL": _MODEL_DEFAULTS,
    "INPUT": {
        "FORMAT": "BGR",
        "MIN_SIZE_TRAIN": (800,),  # shorter side, pixels
        "MIN_SIZE_TRAIN_SAMPLING": "choice",  # or "range"
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800,  # 0: no resizing
        "MAX_SIZE_TEST": 1333,
        "RANDOM_FLIP": "horizontal",  # or "vertical", "none"
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
        "MASK_FORMAT": "polygon",
    },
    "DATASETS": {
        "TRAIN": (),
        "TEST": (),
        "PROPOSAL_FILES_TRAIN": (),
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "ASPECT_RATIO_GROUPING": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True,
        "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "IMS_PER_BATCH": 16,
        "REFERENCE_WORLD_SIZE": 0,
        "BASE_LR": 0.001,
        "BASE_LR_END": 0.0,
        "BIAS_LR_FACTOR": 1.0,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None,
        "GAMMA": 0.1,
        "STEPS": (30000,),
        "NUM_DECAYS": 3,
        "RESCALE_INTERVAL": False,
        "WARMUP_FACTOR": 0.001,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
        "CHECKPOINT_PERIOD": 5000,
        "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
        "AMP": {"ENABLED": False},
    },
    "TEST": {
        "EVAL_PERIOD": 0,
        "DETECTIONS_PER_IMAGE": 100,
        "EXPECTED_RESULTS": [],
        "KEYPOINT_OKS_SIGMAS": [],
        "AUG": {
            "ENABLED": False,
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            "FLIP": True,
        },
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    },
    "OUTPUT_DIR": "./output",
    "SEED": -1,  # negative: not seeded
    "CUDNN_BENCHMARK": False,
    "FLOAT32_PRECISION": "",
    "VIS_PERIOD": 0,
    "GLOBAL": {"HACK": 1.0},
}


class CfgNode(_FvcoreCfgNode):
    """A tree of configuration keys with attribute access; see fvcore's and yacs' `CfgNode` for the other methods."""

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file, after the file its key ``_BASE_`` names (relative to the file itself).

        Args:
            cfg_filename: path of the YAML file.
            allow_unsafe: also load YAML tags that construct Python objects, which runs code of that file.

        Raises:
            KeyError: the file sets a key that this configuration does not have.
            ValueError: a value has another type than the default, the file is not YAML, or is of another version.
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"{cfg_filename}: no such configuration file")
        try:
            loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        except yaml.YAMLError as error:
            raise ValueError(f"{cfg_filename}: not a readable YAML file: {error}") from error
        version = loaded.get("VERSION", CONFIG_VERSION)
        if version != CONFIG_VERSION:
            raise ValueError(f"{cfg_filename}: VERSION is {version!r}, only VERSION {CONFIG_VERSION} is understood")
        try:
            self.merge_from_other_cfg(type(self)(loaded))
        except KeyError as error:
            raise KeyError(
                f"{cfg_filename}: {error.args[0]}. Correct its spelling, or add the key to the configuration before "
                "the file is merged"
            ) from error
        except ValueError as error:
            raise ValueError(f"{cfg_filename}: {error}") from error


def get_cfg() -> CfgNode:
    """A new configuration with every key at its default."""
    return CfgNode(copy.deepcopy(_DEFAULTS))


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function also be called with a configuration in place of its explicit arguments.

    On a class: decorate ``__init__`` and give the class a classmethod ``from_config(cls, cfg, ...)`` that returns the
    arguments as a dict. On a function: ``@configurable(from_config=lambda cfg: {...})``. Called with a `CfgNode` as
    first argument (or as ``cfg=``), arguments that ``from_config`` takes go to it; the others override its result.

    Example::

        class Square:
            @configurable
            def __init__(self, *, side):
                self.side = side

            @classmethod
            def from_config(cls, cfg):
                return {"side": cfg.SIDE}

        Square(side=2); Square(cfg); Square(cfg, side=2)
    """
    if init_func is not None:
        if from_config is not None or not inspect.isfunction(init_func) or init_func.__name__ != "__init__":
            raise TypeError("@configurable without arguments decorates a class's __init__ only")
        return _configurable_init(init_func)
    if not inspect.isfunction(from_config):
        raise TypeError(f"configurable(from_config=...) expects a function, got {from_config!r}")

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _has_cfg(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        if not _has_cfg(args, kwargs):
            init_func(self, *args, **kwargs)
            return
        class_from_config = getattr(type(self), "from_config", None)
        if not inspect.ismethod(class_from_config):
            raise TypeError(f"{type(self).__name__} needs a classmethod from_config(cls, cfg, ...) for @configurable")
        init_func(self, **_explicit_arguments(class_from_config, args, kwargs))

    return wrapped


def _has_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), _YacsCfgNode)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if not parameters or next(iter(parameters)) != "cfg":
        raise TypeError(f"{from_config.__qualname__}: the first argument of from_config must be named 'cfg'")
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return from_config(*args, **kwargs)
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    return {**from_config(*args, **taken), **overrides}
