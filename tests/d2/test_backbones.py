"""Layers, ResNet and the feature pyramid."""

import pytest
import torch
from torch import nn

from vod2._d2lite.modeling.backbone.resnet import DeformBottleneckBlock as LiteDeformBottleneckBlock
from vod2.d2 import (
    FPN,
    Backbone,
    BasicBlock,
    BottleneckBlock,
    Conv2d,
    FrozenBatchNorm2d,
    ResNet,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    build_backbone,
    build_resnet_backbone,
    build_resnet_fpn_backbone,
    cat,
    get_cfg,
    get_norm,
    nonzero_tuple,
)


def small_cfg(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16])
    cfg.merge_from_list(["MODEL.RESNETS.WIDTH_PER_GROUP", 4, *overrides])
    return cfg


def test_frozen_normalization_is_computed_from_its_buffers():
    norm = FrozenBatchNorm2d(1)
    norm.load_state_dict(
        {
            "weight": torch.tensor([3.0]),
            "bias": torch.tensor([1.0]),
            "running_mean": torch.tensor([2.0]),
            "running_var": torch.tensor([4.0 - 1e-5]),
        }
    )
    x = torch.full((1, 1, 1, 1), 6.0)
    assert norm(x).item() == pytest.approx((6 - 2) / 2 * 3 + 1)
    assert norm(x.requires_grad_()).item() == pytest.approx(7.0)
    assert not list(norm.parameters())


def test_a_fresh_frozen_normalization_is_the_identity():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FrozenBatchNorm2d(3)(x), x)


def test_old_weights_without_statistics_load_into_a_frozen_normalization():
    norm = FrozenBatchNorm2d(2)
    norm.load_state_dict({"weight": torch.ones(2), "bias": torch.ones(2)})
    assert norm.running_mean.tolist() == [0, 0] and norm.running_var.tolist() == [1, 1]


def test_freezing_a_batch_norm_keeps_its_inference():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=1e-3))
    module(torch.randn(4, 2, 5, 5))
    nn.init.normal_(module[1].weight)
    module.eval()
    x = torch.randn(1, 2, 5, 5)
    expected = module(x)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(module)
    assert isinstance(frozen[1], FrozenBatchNorm2d)
    torch.testing.assert_close(frozen.train()(x), expected)


@pytest.mark.parametrize(
    "name, kind", [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm), ("nnSyncBN", nn.SyncBatchNorm)]
)
def test_a_norm_is_found_by_name(name, kind):
    assert isinstance(get_norm(name, 32), kind)
    assert isinstance(get_norm("FrozenBN", 32), FrozenBatchNorm2d)
    assert get_norm("GN", 64).num_groups == 32
    assert get_norm("", 32) is None and get_norm(None, 32) is None
    assert isinstance(get_norm(nn.InstanceNorm2d, 32), nn.InstanceNorm2d)


def test_layer_norm_normalizes_over_channels():
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(get_norm("LN", 2)(x).flatten(), torch.tensor([-1.0, 1.0]), atol=1e-5, rtol=0)


def test_convolution_is_followed_by_norm_then_activation():
    conv = Conv2d(1, 1, 1, bias=False, norm=nn.BatchNorm2d(1).eval(), activation=nn.functional.relu)
    nn.init.constant_(conv.weight, -1.0)
    conv.norm.bias.data.fill_(2.0)
    x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(conv(x).flatten(), torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    assert conv(torch.zeros(0, 1, 2, 2)).shape == (0, 1, 2, 2)


def test_roi_align_takes_pixel_centers_at_one_half():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    rois = torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]])
    # the box covers pixels 1 and 2 of both axes: 6 7 / 11 12
    assert ROIAlign((2, 2), 1.0, 1)(x, rois).flatten().tolist() == [6, 7, 11, 12]
    # without alignment, samples are half a pixel further: 0.5 * 1 + 0.5 * 5 more
    assert ROIAlign((2, 2), 1.0, 1, aligned=False)(x, rois).flatten().tolist() == [9, 10, 14, 15]


def test_roi_align_of_nothing_is_empty_and_differentiable():
    x = torch.zeros(1, 3, 5, 5, requires_grad=True)
    pooled = ROIAlign((2, 2), 0.5, 0)(x, torch.zeros(0, 5))
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 2, 2) and x.grad.eq(0).all()


def test_nms_suppresses_within_a_group_only():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9.5]])
    keep = batched_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1]), 0.5)
    assert keep.tolist() == [1, 2]
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


def test_nonzero_gives_one_index_vector_for_each_axis():
    assert [i.tolist() for i in nonzero_tuple(torch.tensor([[0, 1], [2, 0]]))] == [[0, 1], [1, 0]]


def test_concatenating_one_tensor_does_not_copy_it():
    x = torch.zeros(2, 2)
    assert cat([x]) is x and cat([x, x], dim=1).shape == (2, 4)


def test_shapes_of_equal_values_are_equal():
    assert ShapeSpec(channels=3, stride=4) == ShapeSpec(3, None, None, 4)


def test_bottleneck_parameters_are_named_as_in_checkpoints():
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, norm="FrozenBN", stride_in_1x1=True)
    assert {name.rsplit(".", 1)[0] for name in block.state_dict()} == {
        f"{conv}{suffix}" for conv in ("shortcut", "conv1", "conv2", "conv3") for suffix in ("", ".norm")
    }
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    assert block(torch.zeros(1, 8, 6, 6)).shape == (1, 16, 3, 3)


def test_an_unstrided_block_of_equal_channels_has_no_projection():
    block = BasicBlock(4, 4, norm="")
    assert sorted(block.state_dict()) == ["conv1.weight", "conv2.weight"]
    nn.init.zeros_(block.conv2.weight)
    x = torch.tensor([-1.0, 2.0, 0.5, -3.0]).view(1, 4, 1, 1)
    assert block(x).flatten().tolist() == [0, 2, 0.5, 0]


def test_a_stage_gives_each_block_its_own_argument():
    blocks = ResNet.make_stage(BasicBlock, 3, in_channels=4, out_channels=8, stride_per_block=[2, 1, 1], norm="")
    assert [(b.in_channels, b.out_channels, b.stride) for b in blocks] == [(4, 8, 2), (8, 8, 1), (8, 8, 1)]


@pytest.mark.parametrize(
    "depth, blocks, kind", [(18, [2, 2, 2, 2], BasicBlock), (34, [3, 4, 6, 3], BasicBlock), (101, [3, 4, 23, 3], None)]
)
def test_a_network_has_the_published_number_of_blocks(depth, blocks, kind):
    cfg = small_cfg("MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.OUT_FEATURES", ["res5"])
    if kind is BasicBlock:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert [len(stage) for stage in backbone.stages] == blocks
    assert all(isinstance(block, kind or BottleneckBlock) for stage in backbone.stages for block in stage)
    channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    assert [stage[-1].out_channels for stage in backbone.stages] == [channels * 2**i for i in range(4)]


@pytest.mark.parametrize("dilation, stride, size", [(1, 32, 2), (2, 16, 4)])
def test_dilating_res5_keeps_its_resolution(dilation, stride, size):
    outputs = ["MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"]]
    backbone = build_backbone(small_cfg(*outputs, "MODEL.RESNETS.RES5_DILATION", dilation))
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert {name: f.shape for name, f in features.items()} == {"res4": (1, 64, 4, 4), "res5": (1, 128, size, size)}
    assert backbone.output_shape()["res5"] == ShapeSpec(channels=128, stride=stride)
    assert backbone.output_shape()["res4"] == ShapeSpec(channels=64, stride=16)
    assert all(block.conv2.dilation == (dilation, dilation) for block in backbone.res5)


def test_stages_that_no_output_needs_are_not_built():
    backbone = build_backbone(small_cfg())
    assert not hasattr(backbone, "res5")
    assert list(backbone.output_shape()) == ["res4"]


def test_freezing_stops_training_of_the_stem_and_first_stages():
    backbone = build_backbone(small_cfg("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.RESNETS.NORM", "BN"))
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4"}
    kinds = {type(m) for m in backbone.res2.modules() if "BatchNorm" in type(m).__name__}
    assert kinds == {FrozenBatchNorm2d}


def test_groups_make_a_resnext():
    cfg = small_cfg("MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.STRIDE_IN_1X1", False)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    first = backbone.res3[0]
    assert (first.conv2.groups, first.conv2.in_channels, first.conv2.stride) == (2, 16, (2, 2))


def test_depth_18_refuses_what_it_cannot_be():
    with pytest.raises((ValueError, AssertionError)):
        build_backbone(small_cfg("MODEL.RESNETS.DEPTH", 18))


class Levels(Backbone):
    """A bottom-up network with chosen outputs."""

    def forward(self, x):
        return {"a": torch.full((1, 1, 4, 4), 1.0), "b": torch.full((1, 1, 2, 2), 10.0)}

    def output_shape(self):
        return {"a": ShapeSpec(channels=1, stride=4), "b": ShapeSpec(channels=1, stride=8)}


@pytest.mark.parametrize("fuse_type, expected", [("sum", 11.0), ("avg", 5.5)])
def test_a_pyramid_adds_the_upsampled_coarser_level(fuse_type, expected):
    fpn = build_levels_pyramid(fuse_type)
    outputs = fpn(torch.zeros(1, 3, 16, 16))
    assert list(outputs) == ["p2", "p3"]
    assert outputs["p2"][0, 0].tolist() == [[expected] * 4] * 4
    assert outputs["p3"].flatten().tolist() == [10.0] * 4
    assert fpn.size_divisibility == 8


def build_levels_pyramid(fuse_type):
    fpn = FPN(Levels(), ["a", "b"], out_channels=1, fuse_type=fuse_type)
    for name, parameter in fpn.named_parameters():
        nn.init.zeros_(parameter)
        if name.endswith("weight"):
            center = parameter.shape[-1] // 2
            parameter.data[..., center, center] = 1.0
    return fpn


def test_the_resnet_pyramid_has_five_levels():
    names = ["res2", "res3", "res4", "res5"]
    cfg = small_cfg("MODEL.RESNETS.OUT_FEATURES", names, "MODEL.FPN.IN_FEATURES", names, "MODEL.FPN.OUT_CHANNELS", 8)
    fpn = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    outputs = fpn(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "p2": (8, 16, 24),
        "p3": (8, 8, 12),
        "p4": (8, 4, 6),
        "p5": (8, 2, 3),
        "p6": (8, 1, 2),
    }
    assert {name: shape.stride for name, shape in fpn.output_shape().items()} == {f"p{i}": 2**i for i in range(2, 7)}
    assert fpn.size_divisibility == 32


def test_a_deformable_stage_begins_as_a_convolution_on_the_grid_and_then_moves():
    cfg = small_cfg("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.NORM", "BN")
    cfg.merge_from_list(["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]])
    deformable = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    cfg.merge_from_list(["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4])
    plain = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    state = deformable.state_dict()
    offsets = {name for name in state if ".conv2_offset." in name}
    assert offsets == {f"res5.{block}.conv2_offset.{part}" for block in range(3) for part in ("weight", "bias")}
    assert state["res5.0.conv2_offset.weight"].shape[0] == 18
    plain.load_state_dict({name: value for name, value in state.items() if name not in offsets})
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(deformable(x)["res5"], plain(x)["res5"], rtol=1e-4, atol=1e-5)
    deformable.res5[0].conv2_offset.bias.data.fill_(0.5)
    assert not torch.allclose(deformable(x)["res5"], plain(x)["res5"], rtol=1e-3)


def test_the_offsets_of_the_stand_in_s_deformable_convolution_get_a_gradient():
    """Detectron2's has no backward pass on a CPU."""
    block = LiteDeformBottleneckBlock(8, 8, bottleneck_channels=4, dilation=2, deform_num_groups=2)
    assert block.conv2_offset.out_channels == 36
    block(torch.randn(1, 8, 6, 9, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.ne(0).any(), name
