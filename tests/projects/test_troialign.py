"""Temporal RoI Align against the slow reference of its equations, its heads in a detector, and its configurations."""

import pytest
import torch
from torch import Tensor

from helpers.device import autocast, autocast_dtypes, device
from helpers.models import ROOT, build_detector, make_targets, make_video, tiny_cfg
from helpers.streams import step_clip, window_clip
from reference.troialign import aggregated_roi, most_similar_roi
from vod2 import UserError
from vod2.d2 import EventStorage, ShapeSpec, build_model
from vod2.engine import load_config
from vod2.export.graphs import make_parts
from vod2.modeling import VideoROIHeads
from vod2.projects.troialign import TemporalAttention, TemporalRoIAlign, TemporalROIHeads, align, most_similar_rois
from vod2.structures import Role
from vod2.temporal import FrameMemory, SlidingWindow

KEYS = {
    "MODEL.ROI_HEADS.NAME": "TemporalROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead",
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "SELSAAggregator",
}
SIZES = pytest.mark.parametrize("size", [(5, 4), (1, 1)], ids=["map", "fewer cells than K"])


def random_map(*shape: int, seed: int = 0, requires_grad: bool = False) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device()).requires_grad_(requires_grad)


def make_align(**arguments) -> TemporalRoIAlign:
    torch.manual_seed(0)
    return TemporalRoIAlign(**({"channels": 8} | arguments)).double().to(device())


def reference(module: TemporalRoIAlign, rois: Tensor, supports: list[Tensor]) -> Tensor:
    found = []
    for roi in rois:
        frames = [roi, *(most_similar_roi(roi, support[0], module.num_similar) for support in supports)]
        if module.attention is None:
            found.append(sum(frames) / len(frames))
        else:
            embed = module.attention.embed
            found.append(aggregated_roi(frames, embed.weight, embed.bias, module.attention.num_heads))
    return torch.stack(found)


class TestEquations:
    @SIZES
    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_similar_rois_are_the_equations(self, count, size):
        rois, support = random_map(2, 6, 3, 3), random_map(1, 6, *size, seed=1)
        expected = torch.stack([most_similar_roi(roi, support[0], count) for roi in rois])
        torch.testing.assert_close(most_similar_rois(rois, support, count), expected, rtol=1e-12, atol=1e-12)

    def test_a_large_map_is_searched_in_parts(self, monkeypatch):
        rois, support = random_map(3, 6, 3, 3), random_map(1, 6, 5, 4, seed=1)
        whole = most_similar_rois(rois, support, 2)
        monkeypatch.setattr(align, "_TILE", 45)  # two of the 27 cells of the RoIs at once
        assert most_similar_rois(rois, support, 2).equal(whole)

    @pytest.mark.parametrize("heads", [0, 1, 4, 8])
    def test_the_whole_is_the_equations_and_so_is_its_gradient(self, heads):
        """Of supports of two sizes; the gradient of every parameter, of the RoIs and of the maps."""
        module = make_align(num_heads=heads)
        rois = random_map(2, 8, 3, 3, requires_grad=True)
        supports = [random_map(1, 8, 4, 5, seed=1, requires_grad=True), random_map(1, 8, 3, 2, seed=2)]
        leaves = [rois, supports[0], *module.parameters()]
        values = module(rois, supports), reference(module, rois, supports)
        torch.testing.assert_close(*values, rtol=1e-11, atol=1e-11)
        grads = [torch.autograd.grad(value.square().sum(), leaves) for value in values]
        for actual, expected in zip(*grads, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)

    def test_numerical_gradients(self):
        module = make_align(channels=4, num_heads=2)
        rois, support = random_map(1, 4, 2, 2, requires_grad=True), random_map(1, 4, 3, 3, seed=1, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: module(a, [b]), (rois, support))

    def test_a_support_with_the_very_cells_gives_the_roi_itself(self):
        rois = random_map(1, 6, 3, 3)
        torch.testing.assert_close(most_similar_rois(rois, rois, count=1), rois, rtol=1e-12, atol=1e-12)

    def test_equal_frames_count_alike_and_their_order_does_not_matter(self):
        module, rois = make_align(), random_map(2, 8, 3, 3)
        torch.testing.assert_close(module.attention([rois] * 4), rois, rtol=1e-12, atol=1e-12)
        supports = [random_map(1, 8, 4, 5, seed=seed) for seed in range(3)]
        torch.testing.assert_close(module(rois, supports), module(rois, supports[::-1]), rtol=1e-12, atol=1e-12)

    def test_cells_of_zeros_have_a_finite_gradient(self):
        """As a ReLU leaves them."""
        rois, support = torch.zeros(1, 8, 3, 3), torch.zeros(1, 8, 4, 5)
        leaves = [value.double().to(device()).requires_grad_() for value in (rois, support)]
        value = make_align()(leaves[0], leaves[1:])
        assert value.eq(0).all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(value.sum(), leaves))

    def test_without_rois_there_is_nothing_and_without_supports_the_rois(self):
        module, rois, support = make_align(), random_map(2, 8, 3, 3), random_map(1, 8, 4, 5, seed=1)
        assert module(rois[:0], [support, support]).shape == (0, 8, 3, 3)
        assert module(rois, []) is rois

    @pytest.mark.parametrize("dtype", autocast_dtypes())
    def test_half_precision_stays_near_float32(self, dtype):
        module, rois = make_align().float(), random_map(4, 8, 3, 3).float()
        supports = [random_map(1, 8, 4, 5, seed=seed).float() for seed in (1, 2)]
        with torch.no_grad():
            full = module(rois, supports)
            with autocast(dtype):
                half = module(rois, supports)
        # A cell that is chosen in the place of one as similar, up to rounding, is another one.
        assert (half.float() - full).norm() / full.norm() < 0.1

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"num_similar": 0}, "NUM_SIMILAR of at least 1 and NUM_HEADS of at least 0, got 0, 4"),
            ({"num_heads": -1}, "NUM_SIMILAR of at least 1 and NUM_HEADS of at least 0, got 2, -1"),
            ({"num_heads": 3}, "NUM_HEADS 3 does not divide 8 channels"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_align(**arguments)


class TestHeads:
    def test_the_aggregator_gets_what_the_box_head_makes_of_temporal_rois(self):
        """By hand: pooled from the key frame's map, aligned to the maps of all three frames, embedded."""
        model, video = build_detector(KEYS, dtype=torch.float64), make_video(3)
        heads, calls = model.roi_heads, []
        heads.aggregator.register_forward_hook(lambda module, inputs, out: calls.append(inputs))
        model([window_clip(video, 1, SlidingWindow(1))])
        ((query, context),) = calls
        maps = [frame.features["res5"] for frame in context.frames]
        assert [frame.index for frame in context.frames] == [0, 1, 2] and maps[0].shape[2:] == (4, 6)
        rois = heads.pool([maps[1]], [query.boxes], [(64, 96)])
        expected = heads.box_head(heads.temporal(rois, maps))
        torch.testing.assert_close(query.features, expected, rtol=1e-12, atol=1e-12)
        # Supports, the key frame among them, stay as RoIAlign pools them.
        torch.testing.assert_close(context.frames[1].proposals.features, heads.box_head(rois), rtol=1e-12, atol=1e-12)

    def test_cells_of_the_padding_of_a_batch_are_never_taken(self):
        """A clip in a batch with a larger one gives what it gives alone."""
        model = build_detector(KEYS, dtype=torch.float64).train()
        model.roi_heads.temporal.num_similar = 1000  # takes every cell there is
        small, large = make_video(2), make_video(2, size=(128, 192))
        seen = []
        model.roi_heads.temporal.register_forward_hook(lambda module, inputs, out: seen.append(inputs[1]))
        for batch in ([small], [small, large]):
            clips = []
            for images in batch:
                support = [{"image": images[1], "frame_index": 1, "role": Role.GLOBAL}]
                targets = {"instances": make_targets()}
                clips.append({"image": images[0], "video_id": "v", "frame_index": 0, "support": support} | targets)
            torch.manual_seed(0)
            with EventStorage():
                model(clips)
        assert [tuple(maps[0].shape[2:]) for maps in seen] == [(4, 6), (4, 6), (8, 12)]

    def test_a_stream_keeps_the_pooled_maps_of_its_window_and_nothing_else(self):
        model, video = build_detector(KEYS), make_video(9)
        memory = FrameMemory(SlidingWindow(1))
        memory.start("video", len(video))
        for t in range(len(video)):
            model.step(step_clip(video, t, memory), memory)
            assert len(memory) <= 3
            kept = [(sorted(frame.features), dict(frame.proposals.fields)) for frame in memory.context(t).frames]
            assert all(of_frame == (["res5"], {}) for of_frame in kept)

    def test_channels_may_be_reduced(self):
        model = build_detector(KEYS | {"MODEL.VIDEO.REDUCE_CHANNELS": 8})
        assert model.roi_heads.temporal.attention.embed.weight.shape == (8, 8, 3, 3)
        assert len(model([window_clip(make_video(2), 0, SlidingWindow(1))])[0]["instances"]) > 0

    def test_it_goes_with_any_aggregator_and_with_none(self):
        clip = window_clip(make_video(2), 0, SlidingWindow(1))
        keys = {"MODEL.ROI_HEADS.NAME": "TemporalROIHeads"}
        for name in ("", "RDNAggregator"):
            named = keys | {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": name}
            scores = [build_detector(one)([clip])[0]["instances"].scores for one in (named, without_heads(named))]
            assert scores[0].shape != scores[1].shape or not torch.allclose(*scores, atol=1e-3)

    @pytest.mark.parametrize(
        "keys, message",
        [
            ({"MODEL.TROIALIGN.NUM_HEADS": 5}, "TemporalROIHeads: .*NUM_HEADS 5 does not divide 24 channels"),
            ({"MODEL.TROIALIGN.NUM_SIMILAR": 0}, "TemporalROIHeads: expected NUM_SIMILAR of at least 1"),
            ({"MODEL.ROI_HEADS.IN_FEATURES": ["res4", "res5"]}, r"IN_FEATURES is \['res4', 'res5'\], name one level"),
            (
                {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator", "MODEL.FLOWNET.WIDTH": 0.125},
                "set MODEL.VIDEO.PIXEL_AGGREGATOR.NAME to '', it builds FGFAAggregator",
            ),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, keys, message):
        with pytest.raises(UserError, match=message):
            build_model(tiny_cfg(KEYS | keys))

    def test_it_is_not_exported(self):
        with pytest.raises(UserError, match="TemporalROIHeads with SELSAAggregator look at the feature maps"):
            make_parts(build_detector(KEYS), SlidingWindow(1), (64, 96))


def without_heads(keys: dict) -> dict:
    return keys | {"MODEL.ROI_HEADS.NAME": "VideoROIHeads"}


@pytest.mark.parametrize("name", ["TROIAlign_R50", "published/TROIAlign_mmtracking_R101"])
def test_the_parameters_of_the_published_heads(name):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        heads = TemporalROIHeads(cfg, {"head_map": ShapeSpec(channels=512, stride=16)})
    assert isinstance(heads, VideoROIHeads) and heads.temporal.num_similar == 2
    assert isinstance(heads.temporal.attention, TemporalAttention) and heads.temporal.attention.num_heads == 4
    weights = {key: tuple(value.shape) for key, value in heads.state_dict().items() if key.endswith("weight")}
    expected = {"temporal.attention.embed": (512, 512, 3, 3), "box_head.fc1": (1024, 512 * 7 * 7)}
    expected |= {"box_predictor.cls_score": (31, 1024), "box_predictor.bbox_pred": (120, 1024)}
    expected |= {f"aggregator.transform.{k}": (1024, 1024) for k in range(2)}
    for layer in ("query", "key", "value", "output"):
        expected |= {f"aggregator.relation.{k}.{layer}": (1024, 1024) for k in range(3)}
    assert weights == {f"{key}.weight": shape for key, shape in expected.items()}


def test_the_quick_configuration_begins_with_the_weights_of_the_quick_single_frame():
    states = []
    for name in ("FasterRCNN", "TROIAlign"):
        model = build_model(load_config(str(ROOT / "configs" / "quick" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
        states.append({key: value.shape for key, value in model.state_dict().items()})
    assert not states[0].items() - states[1].items()
    added = {key for key, _ in states[1].items() - states[0].items()}
    assert all(key.startswith(("roi_heads.aggregator.", "roi_heads.temporal.")) for key in added)
