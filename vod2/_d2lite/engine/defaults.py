"""What most tools want: the command line, the set-up of a run, a trainer and a predictor from the configuration."""

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vod2._d2lite.checkpoint import DetectionCheckpointer
from vod2._d2lite.config import check_supported
from vod2._d2lite.data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader, transforms
from vod2._d2lite.engine import hooks
from vod2._d2lite.engine.train_loop import AMPTrainer, SimpleTrainer, TrainerBase
from vod2._d2lite.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from vod2._d2lite.modeling import build_model
from vod2._d2lite.solver import build_lr_scheduler, build_optimizer
from vod2._d2lite.utils import comm
from vod2._d2lite.utils.collect_env import collect_env_info
from vod2._d2lite.utils.env import seed_all_rng
from vod2._d2lite.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from vod2._d2lite.utils.file_io import PathManager
from vod2._d2lite.utils.logger import setup_logger
from vod2.atomic import replacing


def create_ddp_model(model: nn.Module, **kwargs) -> nn.Module:
    """The model in DistributedDataParallel (with ``kwargs``) where there is more than one process, else itself."""
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The flags that training tools have in common; what follows them, "KEY VALUE ...", is ``opts``."""
    program = sys.argv[0]
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog
        or f"""Examples:
  one machine:       {program} --num-gpus 8 --config-file cfg.yaml MODEL.WEIGHTS weights.pth
  several machines:  {program} --machine-rank 0 --num-machines 2 --dist-url tcp://HOST:PORT [other flags]
""",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="the rank of this machine, unique per machine")
    port = 49152 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14  # differs between users of one machine
    parser.add_argument(
        "--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet, or 'auto' on a single machine"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="'KEY VALUE' pairs that change the config")
    return parser


def default_setup(cfg, args: argparse.Namespace) -> None:
    """Prepare a run: loggers, the log of environment, arguments and config, OUTPUT_DIR/config.yaml, seeds, cuDNN."""
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir or None, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if comm.is_main_process() and output_dir:
        logger.info(f"Running with full config:\n{cfg.dump()}")
        path = os.path.join(output_dir, "config.yaml")
        with replacing(path) as temporary:
            temporary.write_text(cfg.dump())
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):  # benchmarking pays off only over many iterations
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the console, to ``output_dir``/metrics.json and to TensorBoard."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """The model of a configuration with its weights, for one image at a time.

    Attributes:
        metadata: of the first dataset in ``cfg.DATASETS.TEST``.

    Example::

        pred = DefaultPredictor(cfg)
        outputs = pred(cv2.imread("input.jpg"))
    """

    def __init__(self, cfg):
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        size = cfg.INPUT.MIN_SIZE_TEST
        self.aug = transforms.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        if self.input_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT={self.input_format!r}: expected 'RGB' or 'BGR'")

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict:
        """The model's output for an image (H, W, 3) in BGR order, in pixels of that image."""
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        image = torch.as_tensor(image.astype("float32").transpose(2, 0, 1), device=self.cfg.MODEL.DEVICE)
        return self.model([{"image": image, "height": height, "width": width}])[0]


def _of_inner(name: str) -> property:
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
        doc=f"The ``{name}`` of the `SimpleTrainer` that does the steps.",
    )


class DefaultTrainer(TrainerBase):
    """A `SimpleTrainer` (or `AMPTrainer`) with everything made from a configuration, and the usual hooks.

    Each part is made by a ``build_*`` method that a subclass may replace.

    Attributes:
        checkpointer: saves model and training state; the position in the data loader is not part of it.
        scheduler: the learning-rate schedule.
        cfg: the configuration.

    Example::

        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
    """

    model = _of_inner("model")
    data_loader = _of_inner("data_loader")
    optimizer = _of_inner("optimizer")

    def __init__(self, cfg):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # default_setup was not called
        check_supported(cfg, {"TEST.PRECISE_BN.ENABLED": False})
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """With ``resume`` and a last checkpoint in OUTPUT_DIR, continue after its iteration with its whole state.

        Else load the weights ``cfg.MODEL.WEIGHTS`` only, and start from iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was completed

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """Timing, schedule, checkpoints, evaluation, writing: in this order."""
        main = comm.is_main_process()

        def test_and_save_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            # before the evaluation: if that fails, the weights are safe
            hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, test_and_save_results),
            # after the evaluation: its results are written in the same iteration
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
        ]

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict | None:  # type: ignore[override]  # as Detectron2's
        """Train to ``max_iter``; the results of the last evaluation, None where there was none."""
        super().train(self.start_iter, self.max_iter)
        results = getattr(self, "_last_eval_results", None)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert results is not None, "TEST.EXPECTED_RESULTS is set, but there was no evaluation"
            verify_results(self.cfg, results)
        return results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @staticmethod
    def auto_scale_workers(cfg, num_workers: int):
        """The configuration for ``num_workers`` processes where it is written for ``SOLVER.REFERENCE_WORLD_SIZE``.

        The share of a process and the samples of the training stay: IMS_PER_BATCH and BASE_LR grow with the processes,
        iterations and periods shrink. ``cfg`` itself where there is nothing to change, else a copy.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ValueError(f"SOLVER.REFERENCE_WORLD_SIZE={reference} does not divide {cfg.SOLVER.IMS_PER_BATCH=}")
        factor = num_workers / reference
        scaled = cfg.clone()
        scaled.defrost()
        solver = scaled.SOLVER
        solver.REFERENCE_WORLD_SIZE = num_workers
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR = solver.BASE_LR * factor
        solver.MAX_ITER, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD = (
            round(count / factor) for count in (solver.MAX_ITER, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD)
        )
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / factor)
        logging.getLogger(__name__).info(
            f"Scaled from {reference} to {num_workers} processes: {solver.IMS_PER_BATCH=}, {solver.BASE_LR=}, "
            f"{solver.MAX_ITER=}, {solver.WARMUP_ITERS=}, {solver.STEPS=}"
        )
        if cfg.is_frozen():
            scaled.freeze()
        return scaled

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        raise NotImplementedError(
            "To evaluate, implement build_evaluator() in a subclass of DefaultTrainer, or pass evaluators to test()."
        )

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate a model on ``cfg.DATASETS.TEST``.

        Args:
            evaluators: one per dataset; by default made by `build_evaluator`.

        Returns:
            {dataset: results}, or the results themselves for a single dataset; {} in other processes than the first.
        """
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(f"{len(evaluators)} evaluators for {len(names)} datasets in DATASETS.TEST")
        results: OrderedDict[str, dict] = OrderedDict()
        for i, name in enumerate(names):
            data_loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = evaluators[i] if evaluators is not None else cls.build_evaluator(cfg, name)
            except NotImplementedError:
                logger.warning(f"No evaluator found for {name}: it is not evaluated. Implement build_evaluator().")
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results
