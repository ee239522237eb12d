"""Detectron2's default trainer, for clips and streams."""

import math
import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from vod2.atomic import write_json
from vod2.checkpoint import LoadReport, load_initial_weights
from vod2.d2 import (
    CfgNode,
    COCOEvaluator,
    DatasetCatalog,
    DatasetEvaluator,
    DatasetEvaluators,
    DefaultTrainer,
    MetadataCatalog,
    comm,
)
from vod2.data import build_video_test_loader, build_video_train_loader
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError
from vod2.evaluation import LinkingEvaluator, RelationWriter, StreamingModel, UAVDTEvaluator, VIDEvaluator
from vod2.modeling import VideoRCNN, build_box_linker
from vod2.temporal import build_support_schedule


class VideoTrainer(DefaultTrainer):
    """`DefaultTrainer` whose loaders yield clips and whose evaluation streams whole videos.

    Everything else (hooks, writers, checkpoints, resuming) is Detectron2's. A plain image detector trains and
    evaluates in it too: it ignores the supports. docs/extending.md trains with it.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
            raise UserError(f"SOLVER.AMP.ENABLED needs a GPU, MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: set it to False")
        check_datasets(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
        super().__init__(cfg)

    def resume_or_load(self, resume: bool = True) -> LoadReport | None:
        """Detectron2's; where it does not resume, what was loaded of MODEL.WEIGHTS is logged, and returned.

        Raises:
            UserError: if MODEL.WEIGHTS cannot be had or read, or is of another backbone.
        """
        if not (resume and self.checkpointer.has_checkpoint()):
            return load_initial_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)
        super().resume_or_load(resume)
        return None

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_video_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_video_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_video_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """What the dataset's metadata calls for (evaluator_type), with COCO AP beside it (TEST.COCO_AP); COCO AP alone
        for datasets that are not of videos.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        evaluators = []
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if evaluator_type == "vid":
            evaluators.append(VIDEvaluator.from_config(cfg, dataset_name, folder))
        elif evaluator_type == "uavdt":
            evaluators.append(UAVDTEvaluator(dataset_name, folder))
        if cfg.TEST.COCO_AP or not evaluators:
            # A cached conversion would outlive a change of the annotations.
            evaluators.append(COCOEvaluator(dataset_name, tasks=("bbox",), output_dir=folder, allow_cached_coco=False))
        if cfg.MODEL.VIDEO.KEEP_RELATIONS:
            evaluators.append(RelationWriter(folder))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> dict:
        """Detectron2's `test`; a `VideoRCNN` streams, with a memory of its own, other detectors get every frame alone.
        MODEL.VIDEO.LINKER links the detections of each video before the evaluators see them.

        The metrics of each dataset are also written to OUTPUT_DIR/inference/<dataset>/results.json.
        """
        check_datasets(cfg, cfg.DATASETS.TEST)
        detector = getattr(model, "module", model)  # without DistributedDataParallel
        if isinstance(detector, VideoRCNN):
            model = StreamingModel(detector, build_support_schedule(cfg))
        else:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.VIDEO.TEST_SCHEDULE.NAME = "NoWindow"
        if linker := build_box_linker(cfg):
            if evaluators is None:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            given = evaluators if isinstance(evaluators, Sequence) else [evaluators]
            evaluators = [LinkingEvaluator(linker, evaluator) for evaluator in given]
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                found = results if len(cfg.DATASETS.TEST) == 1 else results[name]
                write_json(os.path.join(cfg.OUTPUT_DIR, "inference", name, "results.json"), finite(found))
        return results


def finite(value):
    """Nested metrics as JSON can hold them: None where there is no number."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def check_datasets(cfg: CfgNode, names: Sequence[str]) -> None:
    """Every dataset must be registered, with class names, and no more of them than MODEL.ROI_HEADS.NUM_CLASSES.

    Raises:
        UserError: otherwise.
    """
    for name in names:
        if name not in DatasetCatalog.list():
            known = ", ".join(sorted(DatasetCatalog.list()))
            raise UserError(f"dataset {name!r} is not registered: expected one of {known}, or register it first")
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is None:
            raise UserError(f"dataset {name!r} has no class names: set thing_classes in its metadata")
        if len(classes) > cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise UserError(
                f"dataset {name!r} has {len(classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is "
                f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}: set it to {len(classes)}"
            )
