"""Detection in streams of frames, for scripts and demos."""

import logging
import os

from vod2.checkpoint import load_weights
from vod2.d2 import CfgNode, build_model
from vod2.engine.class_names import class_names_of
from vod2.engine.frame_detector import FrameDetector
from vod2.engine.fuse import convert_for_inference
from vod2.engine.rows import split_row
from vod2.engine.setup import load_config
from vod2.engine.stream_predictor import StreamPredictor
from vod2.engine.zoo import find_published, stem_of, trained_weights
from vod2.errors import UserError, settings
from vod2.modeling import VideoDetector
from vod2.temporal import SupportSchedule, build_support_schedule

_LOGGER = logging.getLogger(__name__)


class VideoPredictor(StreamPredictor):
    """`DefaultPredictor` for videos: BGR images in, detections out, in the order of the frames.

    `stream` takes an iterable; `step`, `flush` and `reset` take one frame at a time; `open` makes a stream whose state
    the caller holds, of which any number may run at once, and `step_many` encodes a frame of each in one call of the
    backbone. Memory is bounded by the window of the schedule and latency by its lookahead, whatever the length of the
    stream: see `VideoStream`, which also says what an exception in the model leaves.

    It is a context manager. `close` frees the model and what the streams remember.

    Args:
        cfg: configuration with MODEL.WEIGHTS, VIDEO.TEST_SCHEDULE and INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST, FORMAT; or
            its file, or the name of one that comes with vod2, see `load_config`; or the name of a model, such as
            "SELSA_R101_mmtracking", whose weights come with vod2 or are fetched, see `vod2.model_zoo`.
        weights: instead of MODEL.WEIGHTS; "" for random ones.
        lookahead: how many frames after t frame t waits for: 0 is causal, for live pictures; up to the window's radius.
            None is what the configuration says (in the papers, the radius), and 0 where it asks for the whole video.
        fused: run the model in a faster form, which gives the same to rounding, see `inference_copy`.

    Raises:
        UserError: if the weights are not those of the model, or the schedule cannot have this lookahead.

    Example:
        >>> import numpy as np
        >>> from vod2 import VideoPredictor
        >>> predictor = VideoPredictor("configs/quick/RDN.yaml", weights="")
        >>> frames = [np.zeros((64, 96, 3), np.uint8)] * 3
        >>> [found.index for found in predictor.stream(frames)]
        [0, 1, 2]
    """

    def __init__(
        self,
        cfg: CfgNode | str | os.PathLike,
        weights: str | os.PathLike | None = None,
        lookahead: int | None = None,
        *,
        fused: bool = False,
    ) -> None:
        config = cfg if isinstance(cfg, CfgNode) else _load(os.fspath(cfg), with_weights=weights is None)
        if weights is not None:
            config = config.clone()
            config.defrost()
            config.MODEL.WEIGHTS = os.fspath(weights)
        schedule = schedule_of_stream(config, lookahead)
        model = build_model(config).eval()
        if not isinstance(model, VideoDetector):
            raise UserError(
                f"MODEL.META_ARCHITECTURE is {config.MODEL.META_ARCHITECTURE!r}: a stream needs 'VideoRCNN', which is "
                "the same detector without aggregators, or 'VideoOneStage'"
            )
        load_weights(model, config.MODEL.WEIGHTS)
        if fused:
            convert_for_inference(model)
        super().__init__(FrameDetector(config, model, schedule, _class_names(config)))

    @property
    def model(self) -> VideoDetector:
        """The detector, in evaluation mode."""
        detector = self._detector
        assert isinstance(detector, FrameDetector)  # that of `__init__`
        return detector.model


def _load(name: str, with_weights: bool) -> CfgNode:
    """The configuration of a file, or of the name of a model, which has no suffix, with its trained weights."""
    file, _ = split_row(name)
    if os.path.isfile(file) or file.endswith((".yaml", ".yml")):
        return load_config(name)
    published = find_published(name)
    cfg = load_config(published.config if published else f"{stem_of(name)}.yaml")
    if with_weights:
        cfg.MODEL.WEIGHTS = trained_weights(name)
    return cfg


def _class_names(cfg: CfgNode) -> list[str]:
    """The names for drawings and tables; [] where they are not known, or are not those of the model."""
    try:
        return class_names_of(cfg)
    except UserError as error:
        # Its text alone: a handler that keeps records would keep, with the error's traceback, the model.
        _LOGGER.warning("class names unknown, using numbers: %s", str(error))
        return []


def schedule_of_stream(cfg: CfgNode, lookahead: int | None) -> SupportSchedule:
    """VIDEO.TEST_SCHEDULE with another lookahead, so that it can run without knowing the video's length."""
    schedule = build_support_schedule(cfg)
    if lookahead is None and schedule.lookahead is None:
        _LOGGER.warning(
            "%s looks at the whole video, a stream only at the frames until now (lookahead 0)",
            cfg.VIDEO.TEST_SCHEDULE.NAME,
        )
        lookahead = 0
    if lookahead is None:
        return schedule
    with settings("VIDEO.TEST_SCHEDULE"):
        return schedule.with_lookahead(lookahead)
