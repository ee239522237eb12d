"""Detectron2's default trainer, for clips and streams."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vod2.atomic import write_json
from vod2.checkpoint import LoadReport, load_flow_weights, load_initial_weights
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
from vod2.data import build_video_test_loader, build_video_train_loader, check_context
from vod2.engine.accumulation import accumulating, scaled_to_devices
from vod2.engine.optimizer import build_video_optimizer
from vod2.errors import UserError
from vod2.evaluation import LinkingEvaluator, RelationWriter, StreamingModel, UAVDTEvaluator, VIDEvaluator
from vod2.keys import default_config
from vod2.modeling import VideoRCNN, asks_for_ids, build_box_linker
from vod2.temporal import build_support_schedule


class VideoTrainer(DefaultTrainer):
    """`DefaultTrainer` whose loaders yield clips and whose evaluation streams whole videos.

    Everything else (hooks, writers, checkpoints, resuming) is Detectron2's. A plain image detector trains and
    evaluates in it too: it ignores the supports. docs/extending.md trains with it.

    SOLVER.IMS_PER_BATCH is what one update sees on all devices. With SOLVER.ACCUMULATE k, n devices make the update of
    n * k, see `AccumulatingTrainer`; SOLVER.REFERENCE_WORLD_SIZE counts them as n * k, too, see `scaled_to_devices`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
            raise UserError(f"SOLVER.AMP.ENABLED needs a GPU, MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: set it to False")
        check_datasets(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
        if cfg.SOLVER.ACCUMULATE > 1 and cfg.TEST.PRECISE_BN.ENABLED:
            raise UserError("TEST.PRECISE_BN does not cut batches as SOLVER.ACCUMULATE does: use one of the two")
        if cfg.DATASETS.TEST:  # a mistake in it is told before the training, not at its first evaluation
            build_support_schedule(cfg)
            build_box_linker(cfg)
        super().__init__(scaled_to_devices(cfg))
        if cfg.SOLVER.ACCUMULATE > 1:
            self._trainer = accumulating(self._trainer, cfg.SOLVER.ACCUMULATE)

    def resume_or_load(self, resume: bool = True) -> LoadReport | None:  # type: ignore[override]  # Detectron2's: None
        """Detectron2's; where it does not resume, what was loaded of MODEL.WEIGHTS is logged, and returned.

        Flow networks then begin with MODEL.FLOWNET.WEIGHTS.

        Raises:
            UserError: if one of these files cannot be had or read, or is of another backbone or flow network.
        """
        if not (resume and self.checkpointer.has_checkpoint()):
            report = load_initial_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)
            if self.cfg.MODEL.FLOWNET.WEIGHTS:
                load_flow_weights(self.checkpointer.model, self.cfg.MODEL.FLOWNET.WEIGHTS)
            return report
        super().resume_or_load(resume)
        return None

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_video_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return build_video_train_loader(cfg, all_annotations=asks_for_ids(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return build_video_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """What the dataset's metadata calls for (evaluator_type), with COCO AP beside it (TEST.COCO_AP); COCO AP alone
        for datasets that are not of videos.
        """
        folder = inference_folder(cfg.OUTPUT_DIR, dataset_name, cfg.TEST.CONTEXT)
        evaluators: list[DatasetEvaluator] = []
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if evaluator_type == "vid":
            evaluators.append(VIDEvaluator.from_config(cfg, dataset_name, folder))
        elif evaluator_type == "uavdt":
            evaluators.append(UAVDTEvaluator(dataset_name, folder))
        if cfg.TEST.COCO_AP or not evaluators:
            # A cached conversion would outlive a change of the annotations.
            evaluators.append(COCOEvaluator(dataset_name, tasks=("bbox",), output_dir=folder, allow_cached_coco=False))
        if cfg.MODEL.VIDEO.KEEP_RELATIONS and cfg.TEST.CONTEXT == "own":  # else they are relations to other frames
            evaluators.append(RelationWriter(folder))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict:
        """Detectron2's `test`; a `VideoRCNN` streams, with a memory of its own, other detectors get every frame alone.
        MODEL.VIDEO.LINKER links the detections of each video before the evaluators see them.

        TEST.CONTEXT chooses what a frame looks at, see `StreamingModel`. Where that is not its own video ("none",
        "foreign"), a linker gets every frame alone, too. A detector that is no `VideoRCNN` is the same in all of them.

        The metrics of each dataset and the context are also written to results.json in `inference_folder`.

        Raises:
            UserError: for an unknown context, or a dataset that does not fit.
        """
        context = check_context(cfg.TEST.CONTEXT)
        check_datasets(cfg, cfg.DATASETS.TEST)
        detector = getattr(model, "module", model)  # without DistributedDataParallel
        if isinstance(detector, VideoRCNN):
            model = StreamingModel(detector, build_support_schedule(cfg), context)
        else:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.VIDEO.TEST_SCHEDULE = default_config().VIDEO.TEST_SCHEDULE  # NoWindow
        if linker := build_box_linker(cfg):
            if evaluators is None:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            given = evaluators if isinstance(evaluators, Sequence) else [evaluators]
            evaluators = [LinkingEvaluator(linker, evaluator, alone=context != "own") for evaluator in given]
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                found = results if len(cfg.DATASETS.TEST) == 1 else results[name]
                path = os.path.join(inference_folder(cfg.OUTPUT_DIR, name, context), "results.json")
                write_json(path, {"context": context} | finite(found))
        return results


def inference_folder(output_dir: str, dataset_name: str, context: str = "own") -> str:
    """Where an evaluation of a run is written: a folder for each dataset and TEST.CONTEXT.

    Example:
        >>> inference_folder("output", "synthetic_val"), inference_folder("output", "synthetic_val", "none")
        ('output/inference/synthetic_val', 'output/inference/synthetic_val_none')
    """
    return os.path.join(output_dir, "inference", dataset_name if context == "own" else f"{dataset_name}_{context}")


def finite(value: Any) -> Any:
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
