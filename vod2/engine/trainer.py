"""Detectron2's default trainer, for clips and streams."""

import functools
import logging
import math
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from vod2.atomic import full_disk_errno, remove_leftovers, write_json
from vod2.checkpoint import (
    LoadReport,
    TrainingCheckpointer,
    load_flow_weights,
    load_initial_weights,
)
from vod2.checkpoint.files import WholeCheckpoint, read_manifest
from vod2.checkpoint.io import read_shapes
from vod2.d2 import (
    CfgNode,
    DatasetEvaluator,
    DatasetEvaluators,
    DefaultTrainer,
    EventWriter,
    HookBase,
    MetadataCatalog,
    PeriodicCheckpointer,
    TrainerBase,
    comm,
)
from vod2.d2 import hooks as d2_hooks
from vod2.data import TrainingLoader, build_video_test_loader, build_video_train_loader, check_context
from vod2.data.datasets.readings import forget_readings, reading_once
from vod2.engine.accumulation import AccumulatingTrainer, accumulating, scaled_to_devices
from vod2.engine.bad_steps import BadSteps
from vod2.engine.config_values import building, check_values
from vod2.engine.frozen import require_frozen_weights, tell_frozen
from vod2.engine.hooks import BestSaving, PeriodicSaving, StopHook
from vod2.engine.machines import output_for_training
from vod2.engine.optimizer import build_video_optimizer
from vod2.engine.preflight import check_datasets, check_training
from vod2.engine.resume import (
    changed_keys,
    draws_other_clips,
    hyperparameters,
    report_changes,
    require_same_classes,
    require_same_model,
    use_hyperparameters,
)
from vod2.engine.writers import TrackingWriter, build_trackers, check_tracking, start_trackers
from vod2.errors import UserError
from vod2.evaluation import LinkingEvaluator, RelationWriter, StreamingModel, UAVDTEvaluator, VIDEvaluator
from vod2.evaluation.coco import build_coco_evaluator
from vod2.evaluation.collect import read_confusion
from vod2.evaluation.mot_metrics import check_mot
from vod2.keys import default_config
from vod2.modeling import VideoDetector, asks_for_ids, build_box_linker
from vod2.modeling.timm_models import load_pretrained
from vod2.temporal import build_support_schedule
from vod2.version import __version__

_LOGGER = logging.getLogger("vod2.engine")


class VideoTrainer(DefaultTrainer):
    """`DefaultTrainer` whose loaders yield clips and whose evaluation streams whole videos.

    Datasets, OUTPUT_DIR and what the evaluation needs are checked before a model is built. Checkpoints are whole or not
    taken, resuming is exact, updates that are not finite are left out, and a signal saves and stops
    (docs/reliability.md); TRACKING.WRITERS adds writers (docs/tracking.md); other hooks and writers are Detectron2's. A
    plain image detector trains and evaluates in it too: it ignores the supports. docs/extending.md trains with it.

    SOLVER.IMS_PER_BATCH is what one update sees on all devices. With SOLVER.ACCUMULATE k, n devices make the update of
    n * k, see `AccumulatingTrainer`; SOLVER.REFERENCE_WORLD_SIZE counts them as n * k, too, see `scaled_to_devices`.
    """

    @reading_once()  # for the checks and the loader; nothing is kept while it trains
    def __init__(self, cfg: CfgNode) -> None:
        if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
            raise UserError(f"SOLVER.AMP.ENABLED needs a GPU, MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: set it to False")
        check_values(cfg)
        check_tracking(cfg)
        check_training(cfg)
        self._trackers: list[TrackingWriter] = []
        if cfg.SOLVER.ACCUMULATE > 1 and cfg.TEST.PRECISE_BN.ENABLED:
            raise UserError("TEST.PRECISE_BN does not cut batches as SOLVER.ACCUMULATE does: use one of the two")
        if cfg.DATASETS.TEST:  # a mistake in it is told before the training, not at its first evaluation
            build_support_schedule(cfg)
            build_box_linker(cfg)
        with building(cfg), _models_stay_on_their_device(cfg.MODEL.DEVICE):
            super().__init__(scaled_to_devices(cfg))
        trainer = accumulating(self._trainer, cfg.SOLVER.ACCUMULATE)
        trainer.seed = self.cfg.SEED if self.cfg.SEED >= 0 else comm.shared_random_seed()
        trainer.bad_steps = BadSteps(self.cfg.SOLVER.MAX_BAD_STEPS, self.cfg.SOLVER.BASE_LR)
        self._trainer: AccumulatingTrainer = trainer
        # Of all processes, when a checkpoint is written: where each is in its samples.
        self._positions: list[dict] = []
        self.checkpointer.about = self._about()

    def _about(self) -> dict[str, Any]:
        """What a later run wants to know of this one."""
        classes = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0]).get("thing_classes")
        return {
            "vod2": __version__,
            "torch": torch.__version__,
            "processes": comm.get_world_size(),
            "classes": None if classes is None else list(classes),
            "configuration": self.cfg.dump(),
        }

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, which save whole checkpoints, and the best, and stop where a signal asks for it."""
        model = self.checkpointer.model
        trainer = weakref.proxy(self)  # the trainer holds the checkpointer
        self.checkpointer = TrainingCheckpointer(model, self.cfg.OUTPUT_DIR, trainer=trainer)
        solver = self.cfg.SOLVER
        hooks: list[HookBase | None] = []
        for hook in super().build_hooks():
            if isinstance(hook, d2_hooks.EvalHook):
                # Before the evaluation: if that fails, the weights are safe. In every process, for each has a state.
                hooks += [PeriodicSaving(solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_KEEP), hook]
                if solver.CHECKPOINT_BEST:
                    hooks.append(BestSaving(solver.CHECKPOINT_BEST))
            elif not isinstance(hook, PeriodicCheckpointer):
                hooks.append(hook)
        return [*hooks, StopHook()]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, and those of TRACKING.WRITERS. In the main process."""
        self._trackers = build_trackers(self.cfg)
        return [*super().build_writers(), *self._trackers]

    def save(self, name: str) -> None:
        """Save the whole training as checkpoint `name` of OUTPUT_DIR. All processes must call it.

        Raises:
            UserError: a weight is not finite.
            OSError: the disk is full. The checkpoints before are whole in both cases.
        """
        position = self.data_loader.state_dict() if isinstance(self.data_loader, TrainingLoader) else {}
        self._positions = comm.gather(position)
        if comm.is_main_process():
            self.checkpointer.save(name, iteration=self.iter)
        comm.synchronize()

    def state_dict(self) -> dict:
        """Detectron2's, with the seed of what the iterations draw and, after `save`, the positions in the samples."""
        samples = {"seed": self._trainer.seed, "positions": self._positions}
        return super().state_dict() | {"samples": samples}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if samples := state_dict.get("samples"):
            self._trainer.seed = samples["seed"]
            self._positions = samples["positions"]

    def resume_or_load(self, resume: bool = True) -> LoadReport | None:  # type: ignore[override]  # Detectron2's: None
        """Go on from the last whole checkpoint of OUTPUT_DIR, bit for bit as if the training had not been interrupted.

        What has changed in the configuration is logged, and used or refused. Where there is nothing to resume, or
        without `resume`, the model begins with MODEL.WEIGHTS, and what was loaded of it is logged, and returned; flow
        networks then begin with MODEL.FLOWNET.WEIGHTS, and backbones of timm, where MODEL.WEIGHTS is '', with those
        that MODEL.TIMM names.

        Raises:
            UserError: if one of these files cannot be had or read, or is of another backbone or flow network, or lacks
                something that MODEL.FREEZE keeps as it is; to resume, if no checkpoint is whole, or the training was of
                another model, classes or optimizer.
        """
        if comm.is_main_process() and self.cfg.OUTPUT_DIR:
            for path in remove_leftovers(self.cfg.OUTPUT_DIR):
                _LOGGER.info("removed %s, which an interrupted run has left", path)
        # One process chooses: the others might see a folder in which a file has just appeared.
        whole = self.checkpointer.find() if resume and comm.is_main_process() else None
        whole = comm.all_gather(whole)[0]
        if whole is None:
            report = load_initial_weights(self.checkpointer.model, self.cfg.MODEL.WEIGHTS)
            require_frozen_weights(_without_ddp(self.checkpointer.model), self.cfg.MODEL.FREEZE, report)
            if not self.cfg.MODEL.WEIGHTS:
                load_pretrained(self.checkpointer.model)
            if self.cfg.MODEL.FLOWNET.WEIGHTS:
                load_flow_weights(self.checkpointer.model, self.cfg.MODEL.FLOWNET.WEIGHTS)
            return report
        self._resume(whole)
        return None

    def _resume(self, whole: WholeCheckpoint) -> None:
        path, folder = str(whole.weights), self.cfg.OUTPUT_DIR
        if whole.faults:
            _LOGGER.warning("%s: resuming from %s, the newest whole checkpoint", "; ".join(whole.faults), path)
        manifest = read_manifest(whole.weights)
        about = {} if manifest is None else manifest["about"]
        changes = changed_keys(about["configuration"], self.cfg) if about else {}
        report_changes(changes, folder)
        require_same_classes(about.get("classes"), self.checkpointer.about["classes"], path)
        require_same_model(_without_ddp(self.checkpointer.model), read_shapes(path), path)
        fresh = hyperparameters(self.optimizer)
        seed = self._trainer.seed
        try:
            self.checkpointer.load(path)
        except (ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{path} cannot be resumed: the state of its optimizer is of other parameters ({error}); resume with "
                "the configuration of that training, or give another OUTPUT_DIR"
            ) from error
        self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was completed
        if any(key.startswith("SOLVER.") for key in changes):
            use_hyperparameters(self.optimizer, self.scheduler, fresh)
        if "SEED" in changes and self.cfg.SEED >= 0:
            self._trainer.seed = seed
        self._resume_samples(draws_other_clips(changes))
        if self.start_iter == self.max_iter and whole.weights.stem != "model_final":
            self.save("model_final")  # the kill came between the last periodic checkpoint and this one
        if self.start_iter >= self.max_iter:
            _LOGGER.warning(
                "%s has all of SOLVER.MAX_ITER = %d iterations: nothing is left to train; raise SOLVER.MAX_ITER to "
                "train on, or evaluate with --eval-only",
                path,
                self.max_iter,
            )

    def _resume_samples(self, others: bool) -> None:
        """Go on with the samples where each process was; `others` says that the configuration draws other ones."""
        loader = self.data_loader
        if not isinstance(loader, TrainingLoader):
            _LOGGER.warning("the loader of this trainer has no position: its samples begin anew")
        elif not self._positions:
            _LOGGER.warning("the checkpoint has no position in the samples: they begin anew, as in Detectron2")
        elif others or len(self._positions) != comm.get_world_size():
            loader.skip(max(position["next"] for position in self._positions))
            _LOGGER.warning(
                "samples go on after those that the training has seen, but are not the ones that it would have seen"
            )
        else:
            loader.load_state_dict(self._positions[comm.get_rank()])

    def train(self) -> Any:  # type: ignore[override]  # as Detectron2's default trainer has it
        """Train to SOLVER.MAX_ITER, with OUTPUT_DIR locked against other trainings.

        Returns:
            The metrics of the last evaluation, as in Detectron2.

        Raises:
            UserError: another training writes to OUTPUT_DIR, or a tracker cannot begin a run.
            OSError: the disk is full; the checkpoints before are whole.
        """
        is_writer = comm.is_main_process() and self.cfg.OUTPUT_DIR
        with output_for_training(self.cfg.OUTPUT_DIR) if is_writer else nullcontext(), told_without_traceback():
            start_trackers(self._trackers, self.start_iter)
            return super().train()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        tell_frozen(model, cfg.MODEL.FREEZE)
        return model

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
        for datasets that are not of videos; a warning names a dataset that does not say what it is.
        """
        check_mot(cfg, is_linked=bool(cfg.MODEL.VIDEO.LINKER.NAME) and cfg.TEST.CONTEXT == "own")
        folder = inference_folder(cfg.OUTPUT_DIR, dataset_name, cfg.TEST.CONTEXT)
        evaluators: list[DatasetEvaluator] = []
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if evaluator_type == "vid":
            evaluators.append(VIDEvaluator.from_config(cfg, dataset_name, folder))
        elif evaluator_type == "uavdt":
            evaluators.append(UAVDTEvaluator(dataset_name, folder))
        elif evaluator_type is None:
            _warn_without_evaluator_type(dataset_name)
        if cfg.TEST.COCO_AP or not evaluators:
            evaluators.append(build_coco_evaluator(dataset_name, folder))
        if cfg.MODEL.VIDEO.KEEP_RELATIONS and cfg.TEST.CONTEXT == "own":  # else they are relations to other frames
            evaluators.append(RelationWriter(folder))
        return DatasetEvaluators([*evaluators, _ForgetReadings()])

    @classmethod
    @reading_once()  # for the loader and the evaluators
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict:
        """Detectron2's `test`; a `VideoDetector` streams, with a memory of its own, others get every frame alone.
        MODEL.VIDEO.LINKER links the detections of each video before the evaluators see them.

        TEST.CONTEXT chooses what a frame looks at, see `StreamingModel`. Where that is not its own video ("none",
        "foreign"), a linker gets every frame alone, too. What is no `VideoDetector` is the same in all of them.

        The metrics of each dataset and the context are also written to results.json in `inference_folder`.

        Raises:
            UserError: for an unknown context, or a dataset that does not fit.
        """
        context = check_context(cfg.TEST.CONTEXT)
        check_datasets(cfg, cfg.DATASETS.TEST, load=True)
        share_buffers(model)
        detector = _without_ddp(model)
        if isinstance(detector, VideoDetector):
            test, schedule = cfg.TEST, build_support_schedule(cfg)
            model = StreamingModel(detector, schedule, context, test.FRAME_STORE_MB, test.PRECISION)
        else:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.VIDEO.TEST_SCHEDULE = default_config().VIDEO.TEST_SCHEDULE  # NoWindow
        if evaluators is not None:
            given = evaluators if isinstance(evaluators, Sequence) else [evaluators]
            evaluators = [DatasetEvaluators([evaluator, _ForgetReadings()]) for evaluator in given]
        if linker := build_box_linker(cfg):
            if evaluators is None:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            evaluators = [LinkingEvaluator(linker, evaluator, alone=context != "own") for evaluator in evaluators]
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                found = results if len(cfg.DATASETS.TEST) == 1 else results[name]
                path = Path(inference_folder(cfg.OUTPUT_DIR, name, context), "results.json")
                metrics = finite(found)
                write_json(path, {"context": context} | read_confusion(path, metrics) | metrics)
        return results


class _ForgetReadings(DatasetEvaluator):
    """Frees what `reading_once` keeps when an evaluation begins: by then its loader and evaluators have what they need
    of the dataset."""

    def reset(self) -> None:
        forget_readings()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Nothing: it has no results."""

    def evaluate(self) -> None:
        """No results."""


class _ToldOnce(logging.Filter):
    """Drops the traceback of user errors and full disks, which are reported where the program ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (isinstance(error, UserError) or full_disk_errno(error) is not None):
            record.msg, record.args, record.exc_info = f"the training ends: {error}", (), None
        return True


@contextmanager
def told_without_traceback() -> Iterator[None]:
    """While it is entered, Detectron2's training loop logs mistakes and full disks without a traceback."""
    logger, once = logging.getLogger(TrainerBase.__module__), _ToldOnce()
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)


@functools.cache  # an evaluation during a training comes again and again
def _warn_without_evaluator_type(dataset_name: str) -> None:
    _LOGGER.warning(
        "dataset %r has no evaluator_type in its metadata, so only COCO AP is computed; for VID AP, set "
        'MetadataCatalog.get(%r).set(evaluator_type="vid") where it is registered, or "coco" if that is what you want',
        dataset_name,
        dataset_name,
    )


def _without_ddp(model: nn.Module) -> nn.Module:
    """The model inside of DistributedDataParallel."""
    return getattr(model, "module", model)


@contextmanager
def _models_stay_on_their_device(device: str) -> Iterator[None]:
    """For several processes on CPUs: Detectron2's trainer names a GPU for the model of each, whatever its device."""
    module: Any = sys.modules[DefaultTrainer.__module__]
    original = module.create_ddp_model
    if not device.startswith("cuda"):
        module.create_ddp_model = partial(original, device_ids=None)
    try:
        yield
    finally:
        module.create_ddp_model = original


def share_buffers(model: nn.Module) -> None:
    """Give the model of every process the buffers of the first one's, whose weights they have already.

    Running statistics of batch normalisation follow the batches of each process: without this, a process would evaluate
    another detector than the one that is saved. All processes must call it.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


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
