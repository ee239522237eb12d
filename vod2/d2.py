"""The door to Detectron2: the one module that decides which backend the project stands on.

Two parallel import lists, chosen once by the environment variable ``VOD2_D2``:

- ``auto`` (default): the installed Detectron2, or the embedded stand-in where there is none;
- ``detectron2``: the installed Detectron2, an error where there is none;
- ``lite``: the embedded stand-in `vod2._d2lite`.

Everything else in the project imports these names from here and never asks which backend it got. A type checker sees
the stand-in, which has types.
"""

import importlib.util
import os
from typing import TYPE_CHECKING

# Decided once, at import: classes and registries of the two backends must not mix in one process
_choice = os.environ.get("VOD2_D2", "auto")
if _choice not in ("auto", "detectron2", "lite"):
    raise ImportError(f"VOD2_D2={_choice!r}: expected 'auto', 'detectron2' or 'lite'")
if _choice == "auto":
    # Not by importing it: a broken installation has to be an error, not a silent switch to the stand-in
    _choice = "detectron2" if importlib.util.find_spec("detectron2") else "lite"

BACKEND = _choice

# Two full lists rather than a loop over names, because type checkers and editors do not run code
if BACKEND == "detectron2" and not TYPE_CHECKING:
    try:
        import detectron2
    except ImportError as error:
        raise ImportError(
            f"VOD2_D2=detectron2, but Detectron2 does not import ({error}). Build it from source as its INSTALL page "
            "says, or set VOD2_D2=lite to use the embedded stand-in."
        ) from error
    from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
    from detectron2.config import CfgNode, configurable, get_cfg
    from detectron2.data import (
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        MapDataset,
        MetadataCatalog,
        build_detection_test_loader,
        build_detection_train_loader,
        detection_utils,
        get_detection_dataset_dicts,
        transforms,
    )
    from detectron2.data.datasets import load_coco_json, register_coco_instances
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
    from detectron2.engine import (
        AMPTrainer,
        DefaultPredictor,
        DefaultTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
        launch,
    )
    from detectron2.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        inference_context,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )
    from detectron2.layers import (
        CNNBlockBase,
        Conv2d,
        FrozenBatchNorm2d,
        ROIAlign,
        ShapeSpec,
        batched_nms,
        cat,
        get_norm,
        nonzero_tuple,
    )
    from detectron2.modeling import (
        ANCHOR_GENERATOR_REGISTRY,
        BACKBONE_REGISTRY,
        FPN,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        ROI_BOX_HEAD_REGISTRY,
        ROI_HEADS_REGISTRY,
        RPN_HEAD_REGISTRY,
        Backbone,
        FastRCNNOutputLayers,
        GeneralizedRCNN,
        ResNet,
        ResNetBlockBase,
        ROIHeads,
        StandardROIHeads,
        build_anchor_generator,
        build_backbone,
        build_box_head,
        build_model,
        build_proposal_generator,
        build_resnet_backbone,
        build_roi_heads,
        build_rpn_head,
        detector_postprocess,
    )
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.backbone import BasicStem, BottleneckBlock
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool, build_resnet_fpn_backbone
    from detectron2.modeling.backbone.resnet import BasicBlock
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
    from detectron2.modeling.roi_heads import FastRCNNConvFCHead
    from detectron2.modeling.sampling import subsample_labels
    from detectron2.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
    from detectron2.structures import Boxes, BoxMode, ImageList, Instances, pairwise_iou
    from detectron2.utils import comm
    from detectron2.utils.collect_env import collect_env_info
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        JSONWriter,
        TensorboardXWriter,
        get_event_storage,
    )
    from detectron2.utils.file_io import PathManager
    from detectron2.utils.logger import log_every_n_seconds, log_first_n, setup_logger
    from detectron2.utils.registry import Registry
    from detectron2.utils.visualizer import ColorMode, Visualizer
else:
    from vod2._d2lite.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
    from vod2._d2lite.config import CfgNode, configurable, get_cfg
    from vod2._d2lite.data import (
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        MapDataset,
        MetadataCatalog,
        build_detection_test_loader,
        build_detection_train_loader,
        detection_utils,
        get_detection_dataset_dicts,
        transforms,
    )
    from vod2._d2lite.data.datasets import load_coco_json, register_coco_instances
    from vod2._d2lite.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
    from vod2._d2lite.engine import (
        AMPTrainer,
        DefaultPredictor,
        DefaultTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
        launch,
    )
    from vod2._d2lite.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        inference_context,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )
    from vod2._d2lite.layers import (
        CNNBlockBase,
        Conv2d,
        FrozenBatchNorm2d,
        ROIAlign,
        ShapeSpec,
        batched_nms,
        cat,
        get_norm,
        nonzero_tuple,
    )
    from vod2._d2lite.modeling import (
        ANCHOR_GENERATOR_REGISTRY,
        BACKBONE_REGISTRY,
        FPN,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        ROI_BOX_HEAD_REGISTRY,
        ROI_HEADS_REGISTRY,
        RPN_HEAD_REGISTRY,
        Backbone,
        FastRCNNOutputLayers,
        GeneralizedRCNN,
        ResNet,
        ResNetBlockBase,
        ROIHeads,
        StandardROIHeads,
        build_anchor_generator,
        build_backbone,
        build_box_head,
        build_model,
        build_proposal_generator,
        build_resnet_backbone,
        build_roi_heads,
        build_rpn_head,
        detector_postprocess,
    )
    from vod2._d2lite.modeling.anchor_generator import DefaultAnchorGenerator
    from vod2._d2lite.modeling.backbone import BasicStem, BottleneckBlock
    from vod2._d2lite.modeling.backbone.fpn import LastLevelMaxPool, build_resnet_fpn_backbone
    from vod2._d2lite.modeling.backbone.resnet import BasicBlock
    from vod2._d2lite.modeling.box_regression import Box2BoxTransform
    from vod2._d2lite.modeling.matcher import Matcher
    from vod2._d2lite.modeling.poolers import ROIPooler
    from vod2._d2lite.modeling.proposal_generator import RPN, StandardRPNHead
    from vod2._d2lite.modeling.roi_heads import FastRCNNConvFCHead
    from vod2._d2lite.modeling.sampling import subsample_labels
    from vod2._d2lite.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
    from vod2._d2lite.structures import Boxes, BoxMode, ImageList, Instances, pairwise_iou
    from vod2._d2lite.utils import comm
    from vod2._d2lite.utils.collect_env import collect_env_info
    from vod2._d2lite.utils.env import seed_all_rng
    from vod2._d2lite.utils.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        JSONWriter,
        TensorboardXWriter,
        get_event_storage,
    )
    from vod2._d2lite.utils.file_io import PathManager
    from vod2._d2lite.utils.logger import log_every_n_seconds, log_first_n, setup_logger
    from vod2._d2lite.utils.registry import Registry
    from vod2._d2lite.utils.visualizer import ColorMode, Visualizer
