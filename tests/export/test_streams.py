"""Streams of parts that PyTorch runs in the place of ONNX Runtime, and what an aggregator must keep to."""

from dataclasses import replace

import pytest
import torch

from helpers.exports import EXPORTED, assert_same_stream, bgr_video, cfg_with_weights
from helpers.models import IMAGE_SIZE, build_detector, tiny_cfg
from vod2 import UserError, VideoPredictor
from vod2.engine.predictor import schedule_of_stream
from vod2.engine.stream_predictor import StreamPredictor
from vod2.export import export_detector, make_parts
from vod2.export.contract import require_contract
from vod2.export.graphs import keyframe_interval
from vod2.export.manifest import describe
from vod2.export.runner import graph_detector
from vod2.structures import Role

LONG = "LSTS"  # a second keyframe, which has a memory, and one after a lost frame


@pytest.mark.parametrize("method", EXPORTED)
def test_streams_of_parts_are_those_of_the_detector(method, tmp_path):
    cfg = cfg_with_weights(tmp_path, EXPORTED[method])
    model = VideoPredictor(cfg)
    parts = make_parts(model.model, model.schedule, IMAGE_SIZE)
    manifest = describe(parts, IMAGE_SIZE, interval=keyframe_interval(model.model))
    runs: dict[str, int] = {}

    def counted(part):
        def graph(inputs):
            runs[part.name] = runs.get(part.name, 0) + 1
            return part(inputs)

        return graph

    graphs = {part.name: counted(part) for part in parts}
    runner = StreamPredictor(graph_detector(cfg, manifest, graphs, model.schedule))
    frames = bgr_video(5)
    frames = [*frames[:4], None, *frames[3:]] if method == LONG else [*frames[:3], None, frames[4]]
    assert_same_stream(list(model.stream(frames)), list(runner.stream(frames)))
    if method == LONG:
        assert manifest.interval == 3 and runs == {"keyframe": 3, "between": 3}
    else:
        assert set(runs) == {part.name for part in parts}


CHANGES = {
    "more proposals than SUPPORT_TOPK": lambda context: sum(len(frame.proposals) for frame in context.frames),
    "roles": lambda context: context.roles.count(Role.GLOBAL),
    "the video": lambda context: len(context.frames[0].video_id),
    "the number of a frame": lambda context: context.frames[0].index,
    "the number of frames": lambda context: len(context.frames),
}


def breaking(kind, change, monkeypatch) -> None:
    """All aggregators of a class add a tenth of what `change` makes of their context."""
    true_forward = kind.forward

    def forward(self, query, context):
        found = true_forward(self, query, context)
        return replace(found, value=found.value + 0.1 * change(context))

    monkeypatch.setattr(kind, "forward", forward)


@pytest.mark.parametrize("change", CHANGES)
def test_an_aggregator_that_breaks_the_contract_is_found(change, monkeypatch):
    keys = EXPORTED["SELSA" if change == "roles" else "RDN"] | {"MODEL.DEVICE": "cpu"}
    cfg, model = tiny_cfg(keys), build_detector(keys)
    schedule = schedule_of_stream(cfg, None)
    require_contract(cfg, model, schedule, IMAGE_SIZE)
    kind = type(model.roi_heads.aggregator)
    breaking(kind, CHANGES[change], monkeypatch)
    with pytest.raises(UserError, match=f"{kind.__name__} does not give in its parts what it gives in a stream"):
        require_contract(cfg, model, schedule, IMAGE_SIZE)
    assert next(model.parameters()).dtype == torch.float32


def test_an_aggregator_that_runs_in_single_precision_alone_is_compared_in_it(monkeypatch, caplog):
    keys = EXPORTED["RDN"] | {"MODEL.DEVICE": "cpu"}
    cfg, model = tiny_cfg(keys), build_detector(keys)
    schedule, kind = schedule_of_stream(cfg, None), type(model.roi_heads.aggregator)
    true_forward = kind.forward

    def forward(self, query, context):
        torch.ones(1, 1) @ query.features[:1, :1]  # float32 by float64 is an error
        return true_forward(self, query, context)

    monkeypatch.setattr(kind, "forward", forward)
    require_contract(cfg, model, schedule, IMAGE_SIZE)
    assert "does not run in double precision" in caplog.text
    breaking(kind, lambda context: 1000 * len(context.frames[0].video_id), monkeypatch)
    with pytest.raises(UserError, match="does not give in its parts"):
        require_contract(cfg, model, schedule, IMAGE_SIZE)


def test_an_export_that_breaks_the_contract_writes_nothing(tmp_path, monkeypatch):
    cfg = cfg_with_weights(tmp_path, EXPORTED["RDN"])
    breaking(type(VideoPredictor(cfg).model.roi_heads.aggregator), CHANGES["the video"], monkeypatch)
    with pytest.raises(UserError, match="nothing was exported"):
        export_detector(cfg, tmp_path / "out", IMAGE_SIZE, form="torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        ("RDN", lambda parts: parts.pop("aggregate"), r"the parts \['frame'\], expected 'aggregate', too"),
        ("RDN", lambda parts: without(parts, "aggregate", "support_valid"), "expected 'support_valid'"),
        ("RDN", lambda parts: without(parts, "frame", "image"), r"frame has the inputs \[\], expected 'image'"),
        ("LSTS", lambda parts: parts.pop("between"), "keyframes every 3 frames need a part 'between'"),
        ("LSTS", lambda parts: without(parts, "between", "memory"), "expected 'memory'"),
        ("LSTS", lambda parts: parts.pop("keyframe"), "none of which begins a frame"),
    ],
)
def test_a_manifest_without_what_a_runner_needs_is_refused_before_a_frame(method, change, said):
    keys = EXPORTED[method] | {"MODEL.DEVICE": "cpu"}
    cfg, model = tiny_cfg(keys), build_detector(keys)
    schedule = schedule_of_stream(cfg, None)
    parts = make_parts(model, schedule, IMAGE_SIZE)
    manifest = describe(parts, IMAGE_SIZE, interval=keyframe_interval(model))
    change(manifest.parts)
    with pytest.raises(UserError, match=f"{said}.*export the detector again"):
        graph_detector(cfg, manifest, {part.name: part for part in parts}, schedule)


def test_keyframes_need_an_interval():
    keys = EXPORTED["LSTS"] | {"MODEL.DEVICE": "cpu"}
    cfg, model = tiny_cfg(keys), build_detector(keys)
    schedule = schedule_of_stream(cfg, None)
    manifest = describe(make_parts(model, schedule, IMAGE_SIZE), IMAGE_SIZE, interval=0)
    with pytest.raises(UserError, match="the interval of keyframes is 0, expected 1 or more"):
        graph_detector(cfg, manifest, {}, schedule)


def without(parts: dict, part: str, name: str) -> None:
    """Take an input out of a part of a manifest."""
    parts[part] = replace(parts[part], inputs=tuple(spec for spec in parts[part].inputs if spec.name != name))
