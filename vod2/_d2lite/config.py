"""Configuration: `CfgNode`, the default keys and values (`get_cfg`), and `configurable`."""

import ast
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import yaml
from fvcore.common.config import CfgNode as _FvcoreCfgNode
from yacs.config import CfgNode as _YacsCfgNode

from vod2._d2lite.utils.file_io import PathManager

__all__ = ["CfgNode", "check_supported", "configurable", "get_cfg"]

# Detectron2 renamed keys from version 1 to 2; a file of version 1 has to go through its converter first
_VERSION = 2


def _with_tuples(value: Any) -> Any:
    """The tree with every string of the form "(1, 2)" as a tuple, which YAML itself does not have."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    is_tuple = isinstance(value, str) and value.startswith("(")
    return ast.literal_eval(value) if is_tuple else value


# Every key of Detectron2 is here, so that any of its YAML files loads. Those that no code of this package reads (masks,
# keypoints, semantic segmentation, cascades, RetinaNet ...) have no effect. Tuples are written as in any such file.
_DEFAULTS = _with_tuples(
    yaml.safe_load(
        """
VERSION: 2
OUTPUT_DIR: ./output
SEED: -1  # negative: not seeded
CUDNN_BENCHMARK: false
FLOAT32_PRECISION: ""
VIS_PERIOD: 0
GLOBAL: {HACK: 1.0}
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  DEVICE: cuda
  WEIGHTS: ""
  MASK_ON: false
  KEYPOINT_ON: false
  LOAD_PROPOSALS: false
  PIXEL_MEAN: [103.53, 116.28, 123.675]  # per channel, in the order of INPUT.FORMAT
  PIXEL_STD: [1.0, 1.0, 1.0]
  BACKBONE: {NAME: build_resnet_backbone, FREEZE_AT: 2}
  RESNETS:
    {DEPTH: 50, OUT_FEATURES: [res4], NORM: FrozenBN, NUM_GROUPS: 1, WIDTH_PER_GROUP: 64, RES5_DILATION: 1,
    STRIDE_IN_1X1: true,  # where the stride-2 convolution sits: true for the original MSRA weights, else false
    STEM_OUT_CHANNELS: 64, RES2_OUT_CHANNELS: 256,
    DEFORM_ON_PER_STAGE: [false, false, false, false], DEFORM_MODULATED: false, DEFORM_NUM_GROUPS: 1}
  FPN: {IN_FEATURES: [], OUT_CHANNELS: 256, NORM: "", FUSE_TYPE: sum}
  ANCHOR_GENERATOR:
    NAME: DefaultAnchorGenerator
    SIZES: [[32, 64, 128, 256, 512]]  # square root of the area, in pixels of the resized image
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]  # height / width
    ANGLES: [[-90, 0, 90]]
    OFFSET: 0.0
  PROPOSAL_GENERATOR: {NAME: RPN, MIN_SIZE: 0}
  RPN:
    {HEAD_NAME: StandardRPNHead, IN_FEATURES: [res4], CONV_DIMS: [-1], LOSS_WEIGHT: 1.0, BOUNDARY_THRESH: -1,
    IOU_THRESHOLDS: [0.3, 0.7], IOU_LABELS: [0, -1, 1], BATCH_SIZE_PER_IMAGE: 256, POSITIVE_FRACTION: 0.5,
    BBOX_REG_WEIGHTS: "(1.0, 1.0, 1.0, 1.0)", BBOX_REG_LOSS_TYPE: smooth_l1, BBOX_REG_LOSS_WEIGHT: 1.0,
    SMOOTH_L1_BETA: 0.0, PRE_NMS_TOPK_TRAIN: 12000, PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TRAIN: 2000,
    POST_NMS_TOPK_TEST: 1000, NMS_THRESH: 0.7}
  ROI_HEADS:
    {NAME: Res5ROIHeads, NUM_CLASSES: 80, IN_FEATURES: [res4], IOU_THRESHOLDS: [0.5], IOU_LABELS: [0, 1],
    BATCH_SIZE_PER_IMAGE: 512, POSITIVE_FRACTION: 0.25, PROPOSAL_APPEND_GT: true, SCORE_THRESH_TEST: 0.05,
    NMS_THRESH_TEST: 0.5}
  ROI_BOX_HEAD:
    {NAME: "", NUM_CONV: 0, CONV_DIM: 256, NUM_FC: 0, FC_DIM: 1024, NORM: "", CLS_AGNOSTIC_BBOX_REG: false,
    BBOX_REG_WEIGHTS: "(10.0, 10.0, 5.0, 5.0)", BBOX_REG_LOSS_TYPE: smooth_l1, BBOX_REG_LOSS_WEIGHT: 1.0,
    SMOOTH_L1_BETA: 0.0, POOLER_RESOLUTION: 14, POOLER_SAMPLING_RATIO: 0, POOLER_TYPE: ROIAlignV2,
    TRAIN_ON_PRED_BOXES: false, USE_SIGMOID_CE: false, USE_FED_LOSS: false, FED_LOSS_FREQ_WEIGHT_POWER: 0.5,
    FED_LOSS_NUM_CLASSES: 50}
  ROI_BOX_CASCADE_HEAD:
    BBOX_REG_WEIGHTS: ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    IOUS: (0.5, 0.6, 0.7)
  ROI_MASK_HEAD:
    {NAME: MaskRCNNConvUpsampleHead, CLS_AGNOSTIC_MASK: false, CONV_DIM: 256, NORM: "", NUM_CONV: 0,
    POOLER_RESOLUTION: 14, POOLER_SAMPLING_RATIO: 0, POOLER_TYPE: ROIAlignV2}
  ROI_KEYPOINT_HEAD:
    {NAME: KRCNNConvDeconvUpsampleHead, CONV_DIMS: "(512, 512, 512, 512, 512, 512, 512, 512)", NUM_KEYPOINTS: 17,
    LOSS_WEIGHT: 1.0, MIN_KEYPOINTS_PER_IMAGE: 1, NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS: true,
    POOLER_RESOLUTION: 14, POOLER_SAMPLING_RATIO: 0, POOLER_TYPE: ROIAlignV2}
  SEM_SEG_HEAD:
    {NAME: SemSegFPNHead, COMMON_STRIDE: 4, CONVS_DIM: 128, IGNORE_VALUE: 255, IN_FEATURES: [p2, p3, p4, p5],
    LOSS_WEIGHT: 1.0, NORM: GN, NUM_CLASSES: 54}
  PANOPTIC_FPN:
    INSTANCE_LOSS_WEIGHT: 1.0
    COMBINE: {ENABLED: true, INSTANCES_CONFIDENCE_THRESH: 0.5, OVERLAP_THRESH: 0.5, STUFF_AREA_LIMIT: 4096}
  RETINANET:
    {NUM_CLASSES: 80, IN_FEATURES: [p3, p4, p5, p6, p7], NUM_CONVS: 4, NORM: "", PRIOR_PROB: 0.01,
    IOU_THRESHOLDS: [0.4, 0.5], IOU_LABELS: [0, -1, 1], FOCAL_LOSS_ALPHA: 0.25, FOCAL_LOSS_GAMMA: 2.0,
    BBOX_REG_LOSS_TYPE: smooth_l1, BBOX_REG_WEIGHTS: "(1.0, 1.0, 1.0, 1.0)", SMOOTH_L1_LOSS_BETA: 0.1,
    SCORE_THRESH_TEST: 0.05, TOPK_CANDIDATES_TEST: 1000, NMS_THRESH_TEST: 0.5}
INPUT:
  {FORMAT: BGR, MASK_FORMAT: polygon, CROP: {ENABLED: false, TYPE: relative_range, SIZE: [0.9, 0.9]},
  MIN_SIZE_TRAIN: "(800,)", MIN_SIZE_TRAIN_SAMPLING: choice, MAX_SIZE_TRAIN: 1333,  # or range; shorter side, pixels
  MIN_SIZE_TEST: 800, MAX_SIZE_TEST: 1333,  # 0: no resizing
  RANDOM_FLIP: horizontal}  # or vertical, none
DATASETS:
  {TRAIN: (), TEST: (), PROPOSAL_FILES_TRAIN: (), PROPOSAL_FILES_TEST: (), PRECOMPUTED_PROPOSAL_TOPK_TRAIN: 2000,
  PRECOMPUTED_PROPOSAL_TOPK_TEST: 1000}
DATALOADER:
  {NUM_WORKERS: 4, ASPECT_RATIO_GROUPING: true, SAMPLER_TRAIN: TrainingSampler, REPEAT_THRESHOLD: 0.0,
  REPEAT_SQRT: true, FILTER_EMPTY_ANNOTATIONS: true}
SOLVER:
  {LR_SCHEDULER_NAME: WarmupMultiStepLR, MAX_ITER: 40000, STEPS: "(30000,)", GAMMA: 0.1, NUM_DECAYS: 3,
  RESCALE_INTERVAL: false, WARMUP_METHOD: linear, WARMUP_ITERS: 1000, WARMUP_FACTOR: 0.001,
  IMS_PER_BATCH: 16, REFERENCE_WORLD_SIZE: 0, BASE_LR: 0.001, BASE_LR_END: 0.0, BIAS_LR_FACTOR: 1.0,
  MOMENTUM: 0.9, NESTEROV: false, WEIGHT_DECAY: 0.0001, WEIGHT_DECAY_NORM: 0.0, WEIGHT_DECAY_BIAS: null,
  CLIP_GRADIENTS: {ENABLED: false, CLIP_TYPE: value, CLIP_VALUE: 1.0, NORM_TYPE: 2.0},
  AMP: {ENABLED: false}, CHECKPOINT_PERIOD: 5000}
TEST:
  EVAL_PERIOD: 0
  DETECTIONS_PER_IMAGE: 100
  EXPECTED_RESULTS: []
  KEYPOINT_OKS_SIGMAS: []
  AUG: {ENABLED: false, MIN_SIZES: "(400, 500, 600, 700, 800, 900, 1000, 1100, 1200)", MAX_SIZE: 4000, FLIP: true}
  PRECISE_BN: {ENABLED: false, NUM_ITER: 200}
"""
    )
)


class CfgNode(_FvcoreCfgNode):
    """A tree of configuration keys with attribute access; see fvcore's and yacs' `CfgNode` for the other methods."""

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file, after the file its key ``_BASE_`` names (relative to the file itself).

        `allow_unsafe` also loads YAML tags that construct Python objects, which runs code of that file. Errors name the
        file: FileNotFoundError, KeyError (unknown key), ValueError (type of a value, YAML syntax, version).
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"{cfg_filename}: no such configuration file")
        try:
            loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
            # A file that names no version counts as current; Detectron2 guesses it from the keys
            if (version := loaded.get("VERSION", _VERSION)) != _VERSION:
                raise ValueError(f"VERSION is {version!r}, only VERSION {_VERSION} is understood")
            self.merge_from_other_cfg(type(self)(loaded))
        except yaml.YAMLError as error:
            raise ValueError(f"{cfg_filename}: not a readable YAML file: {error}") from error
        except KeyError as error:
            advice = "Correct its spelling, or add the key to the configuration before the file is merged"
            # str() of a KeyError puts its message in quotes, args[0] does not
            raise KeyError(f"{cfg_filename}: {error.args[0]}. {advice}") from error
        except ValueError as error:
            raise ValueError(f"{cfg_filename}: {error}") from error


def get_cfg() -> CfgNode:
    """A new configuration with every key at its default."""
    return CfgNode(_DEFAULTS)  # which copies them, lists included


def check_supported(cfg: CfgNode, supported: dict[str, Any]) -> None:
    """Raise NotImplementedError where a key ("MODEL.MASK_ON") has another value than the one that is supported."""
    for key, expected in supported.items():
        value = functools.reduce(operator.getitem, key.split("."), cfg)
        if value != expected:
            raise NotImplementedError(f"{key} is {value!r}: only {expected!r} is possible without Detectron2 itself")


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function also be called with a configuration in place of its explicit arguments.

    On a class: decorate ``__init__`` and give the class a classmethod ``from_config(cls, cfg, ...)`` that returns the
    arguments as a dict. On a function: ``@configurable(from_config=lambda cfg: {...})``. Called with a `CfgNode` as
    first argument (or as ``cfg=``), arguments that ``from_config`` takes go to it; the others override its result.
    """
    if init_func is not None:
        if from_config is not None or not inspect.isfunction(init_func) or init_func.__name__ != "__init__":
            raise TypeError("@configurable without arguments decorates a class's __init__ only")

        @functools.wraps(init_func)
        def wrapped_init(self, *args, **kwargs):
            if _has_cfg(args, kwargs):
                args, kwargs = (), _explicit_arguments(getattr(type(self), "from_config", None), args, kwargs)
            init_func(self, *args, **kwargs)

        return wrapped_init

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _has_cfg(args, kwargs):
                args, kwargs = (), _explicit_arguments(from_config, args, kwargs)
            return function(*args, **kwargs)

        wrapped.from_config = from_config  # type: ignore[attr-defined]  # an attribute of a function
        return wrapped

    return decorate


def _has_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    # yacs' class is the base of every CfgNode, also of one that a script has made with fvcore or yacs alone
    return isinstance(args[0] if args else kwargs.get("cfg"), _YacsCfgNode)


def _explicit_arguments(from_config: Callable | None, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters if callable(from_config) else {}
    # Without @classmethod the first parameter would be "cls"
    if not callable(from_config) or next(iter(parameters), None) != "cfg":
        raise TypeError(f"@configurable needs a function or classmethod from_config(cfg, ...), got {from_config!r}")
    # With *args or **kwargs, from_config accepts any argument: it gets all of them
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters.values()):
        return from_config(*args, **kwargs)
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    from_config_kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    return {**from_config(*args, **from_config_kwargs), **overrides}
