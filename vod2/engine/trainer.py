"""Detectron2's default trainer, for clips and streams."""

import logging
import os

import torch
from torch import nn

import vod2.d2
from vod2.checkpoint import require_weights
from vod2.d2 import CfgNode, COCOEvaluator, DatasetEvaluator, DatasetEvaluators, DefaultTrainer, MetadataCatalog
from vod2.data import build_video_test_loader, build_video_train_loader
from vod2.engine.optimizer import build_video_optimizer
from vod2.evaluation import StreamingModel, VIDEvaluator
from vod2.modeling import VideoRCNN
from vod2.temporal import build_support_schedule


class VideoTrainer(DefaultTrainer):
    """`DefaultTrainer` whose loaders yield clips and whose evaluation streams whole videos.

    Everything else (hooks, writers, checkpoints, resuming) is Detectron2's. A plain image detector trains and
    evaluates in it too: it ignores the supports.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        logging.getLogger("vod2").info("Detectron2 backend: %s", vod2.d2.BACKEND)

    def resume_or_load(self, resume: bool = True) -> None:
        """Detectron2's, with one clear sentence where MODEL.WEIGHTS cannot be had."""
        if not (resume and self.checkpointer.has_checkpoint()):
            require_weights(self.cfg.MODEL.WEIGHTS)
        super().resume_or_load(resume)

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
        """VID AP for video datasets, with COCO AP beside it (TEST.COCO_AP); COCO AP alone for the others."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        evaluators = []
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "vid":
            evaluators.append(VIDEvaluator(dataset_name, folder, protocol=cfg.TEST.VID_PROTOCOL))
        if cfg.TEST.COCO_AP or not evaluators:
            evaluators.append(COCOEvaluator(dataset_name, tasks=("bbox",), output_dir=folder))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> dict:
        """Detectron2's `test`; a `VideoRCNN` streams, with a memory of its own."""
        detector = getattr(model, "module", model)  # without DistributedDataParallel
        if isinstance(detector, VideoRCNN):
            model = StreamingModel(detector, build_support_schedule(cfg))
        return super().test(cfg, model, evaluators)
