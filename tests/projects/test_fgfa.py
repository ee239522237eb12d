"""FGFA against the slow reference, as a stream, and its public parameters."""

import pytest
import torch

import vod2
from helpers.models import ROOT, assert_same_detections, build_detector, make_targets, make_video, tiny_cfg
from helpers.parity import public_shapes
from helpers.public_flow import public_flownet
from helpers.streams import detect_as_stream, window_clip
from reference.flow import fgfa
from vod2.d2 import EventStorage, ShapeSpec, build_model, get_cfg
from vod2.layers import warp
from vod2.projects.fgfa import FGFAAggregator
from vod2.structures import Frame, Role, TemporalContext
from vod2.temporal import SlidingWindow

PUBLIC_EMBEDDING = {"embed_conv1": 0, "embed_conv2": 2, "embed_conv3": 4}  # -> number in `embedding`
KEYS = {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "FGFAAggregator",
    "MODEL.FLOWNET.WIDTH": 0.03,
    "MODEL.FGFA.EMBEDDING_DIMS": (5, 4, 8),
}


def make_fgfa(keys: dict | None = None) -> FGFAAggregator:
    """FGFA on a map of few channels, whose flow is about a cell long and whose embeddings differ."""
    torch.manual_seed(0)
    cfg = tiny_cfg(KEYS | {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]} | (keys or {}))
    model = FGFAAggregator(cfg, {"res4": ShapeSpec(channels=6)})
    for parameter in (*model.flownet.flow.parameters(), *model.embedding.parameters()):
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double()


def random_frame(model: FGFAAggregator, index: int) -> tuple[Frame, torch.Tensor]:
    """A frame of 64 x 96 pixels, and its image."""
    rng = torch.Generator().manual_seed(index)
    image = 255 * torch.rand(3, 64, 96, generator=rng, dtype=torch.float64) - 120
    res4 = torch.randn(1, 6, 4, 6, generator=rng, dtype=torch.float64)
    features = {"res4": res4, "embedding": model.embedding(res4), "half_image": model.flownet.prepare(image[None])}
    return Frame("video", index, (64, 96), features), image


def assert_equals_reference(model: FGFAAggregator, given: list[int], averaged: list[int], t: int = 5) -> None:
    frames = {index: random_frame(model, index) for index in {t, *given}}
    key, image = frames[t]
    context = TemporalContext(tuple(frames[index][0] for index in given), (Role.LOCAL,) * len(given))
    expected = fgfa(
        model.flownet.state_dict(),
        model.embedding.state_dict(),
        image,
        key.features["res4"][0],
        [frames[index][1] for index in averaged],
        [frames[index][0].features["res4"][0] for index in averaged],
    )
    torch.testing.assert_close(model(key, context).value["res4"][0], expected, rtol=1e-9, atol=1e-9)


def test_the_map_is_the_weighted_mean_of_the_warped_ones():
    assert_equals_reference(make_fgfa(), [4, 5, 6], [4, 5, 6])


def test_the_key_frame_counts_though_the_schedule_does_not_name_it():
    assert_equals_reference(make_fgfa(), [3, 7], [5, 3, 7])


def test_a_frame_that_stands_twice_in_the_context_counts_twice():
    assert_equals_reference(make_fgfa(), [5, 5, 6], [5, 5, 6])


def test_a_new_flow_network_and_equal_frames_leave_the_map_as_it_is():
    model = FGFAAggregator(tiny_cfg(KEYS), {"res4": ShapeSpec(channels=6)}).double()
    key, _ = random_frame(model, 0)
    context = TemporalContext((key, key.with_(index=1), key.with_(index=2)), (Role.LOCAL,) * 3)
    torch.testing.assert_close(model(key, context).value["res4"], key.features["res4"], rtol=0, atol=1e-12)


def test_the_public_convention_warps_the_embedding_of_the_key_frame_too():
    """With the key frame alone in its context the result is its warped map, and equal frames weigh the same."""
    model = make_fgfa({"MODEL.FLOWNET.LEGACY_WARP": True})
    (key, _), (other, _) = random_frame(model, 0), random_frame(model, 1)
    flow = {
        frame.index: model.flownet(key.features["half_image"], frame.features["half_image"]).flow
        for frame in (key, other)
    }

    def moved(frame: Frame, level: str) -> torch.Tensor:
        return warp(frame.features[level], flow[frame.index], legacy=True)

    logits = [
        torch.cosine_similarity(moved(frame, "embedding"), moved(key, "embedding"), dim=1)[:, None]
        for frame in (key, other)
    ]
    weights = torch.stack(logits).softmax(dim=0)
    expected = weights[0] * moved(key, "res4") + weights[1] * moved(other, "res4")
    value = model(key, TemporalContext((key, other), (Role.LOCAL,) * 2)).value["res4"]
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


def test_a_cell_whose_embedding_is_zero_has_equal_weights_and_a_finite_gradient():
    model = make_fgfa()
    for parameter in model.embedding[4].parameters():
        torch.nn.init.zeros_(parameter)
    (key, _), (other, _) = random_frame(model, 0), random_frame(model, 1)
    value = model(key, TemporalContext((key, other), (Role.LOCAL,) * 2)).value["res4"]
    value.square().sum().backward()
    assert value.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.embedding[4].parameters())


def test_what_depends_on_a_frame_alone_is_computed_once_in_a_stream():
    model, seen = build_detector(KEYS), []
    model.pixel_aggregator.embedding.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    list(detect_as_stream(model, make_video(5), SlidingWindow(2)))
    assert seen == [1] * 5


def test_a_stream_of_thirty_frames_detects_what_clips_detect():
    model, video = build_detector(KEYS, dtype=torch.float64), make_video(30)
    schedule = SlidingWindow(3, edge="repeat")
    for t, streamed in enumerate(detect_as_stream(model, video, schedule)):
        clip = model([window_clip(video, t, schedule)])[0]["instances"]
        assert_same_detections(streamed, clip, 1e-10)


def test_the_loss_reaches_embedding_flow_network_and_backbone():
    model, video = build_detector(KEYS).train(), make_video(3)
    support = [{"image": video[i], "frame_index": i, "role": Role.LOCAL} for i in (1, 2)]
    clip = {"image": video[0], "video_id": "video", "frame_index": 0, "support": support}
    with EventStorage():
        losses = model([clip | {"instances": make_targets()}])
    sum(losses.values()).backward()
    aggregator = model.pixel_aggregator
    for layer in (aggregator.embedding[0], aggregator.flownet.contract[0], model.backbone.stem.conv1):
        assert layer.weight.grad.ne(0).any()


def test_widths_of_the_embedding_that_make_no_sense_are_refused():
    for dims in ((5, 4), (5, 0, 8)):
        with pytest.raises(ValueError, match="three positive EMBEDDING_DIMS"):
            make_fgfa({"MODEL.FGFA.EMBEDDING_DIMS": dims})


def test_the_published_configuration_has_the_parameters_of_the_public_code():
    public = public_shapes("fgfa")
    cfg = vod2.add_video_config(get_cfg())
    cfg.merge_from_file(str(ROOT / "configs" / "FGFA_R101.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    ours = {key: tuple(value.shape) for key, value in model.pixel_aggregator.state_dict().items()}
    wanted = {f"flownet.{key}": shape for key, shape in public_flownet(public).items()}
    for theirs, number in PUBLIC_EMBEDDING.items():
        for part in ("weight", "bias"):
            wanted[f"embedding.{number}.{part}"] = public[f"embednet.{theirs}.{part}"]
    assert ours == wanted
    assert len([key for key in public if key.startswith(("flownet.", "embednet."))]) == len(ours)
    heads = [tuple(model.roi_heads.box_head.fc1.weight.shape), tuple(model.roi_heads.box_head.fc2.weight.shape)]
    assert heads == [public[f"roi_heads.box.feature_extractor.{name}.weight"] for name in ("fc6", "fc7")]
