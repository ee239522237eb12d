"""What stands before level 2: the reduction of channels and the box head without its last activation."""

import pytest
import torch
from torch.nn import functional

from helpers.models import DIM, build_detector, make_targets, make_video, tiny_cfg
from vod2 import UserError
from vod2.d2 import EventStorage, FastRCNNConvFCHead, ShapeSpec, build_model
from vod2.modeling.roi_heads import LinearBoxHead

REDUCED = {"MODEL.VIDEO.REDUCE_CHANNELS": 7}


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


class TestReduceChannels:
    def test_the_parameters_are_a_convolution_and_a_smaller_box_head(self):
        plain, reduced = shapes_of(build_detector()), shapes_of(build_detector(REDUCED))
        assert dict(reduced.items() - plain.items()) == {
            "roi_heads.reduce.res5.0.weight": (7, 24, 1, 1),
            "roi_heads.reduce.res5.0.bias": (7,),
            "roi_heads.box_head.fc1.weight": (DIM, 7 * 3 * 3),
        }
        assert {name for name, _ in plain.items() - reduced.items()} == {"roi_heads.box_head.fc1.weight"}

    def test_rois_are_pooled_from_the_activated_convolution_of_the_map(self):
        model = build_detector(REDUCED, dtype=torch.float64)
        heads, image = model.roi_heads, make_video(1)[0]
        with torch.no_grad():
            (frame,) = model.encode([{"image": image}])
            proposals, _ = model.proposal_generator.propose([frame.image_size], frame.features)
            (embedded,) = heads.embed(frame.features, proposals)
            conv = heads.reduce["res5"][0]
            mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], frame.features["res5"])
            small = (mixed + conv.bias[:, None, None]).clamp(min=0)
            expected = heads.box_head(heads.box_pooler([small], [proposals[0].proposal_boxes]))
        assert small.eq(0).any() and small.ne(0).any()
        torch.testing.assert_close(embedded.features, expected, rtol=1e-10, atol=1e-10)

    def test_the_rpn_still_sees_the_whole_map(self):
        model = build_model(tiny_cfg(REDUCED | {"MODEL.RPN.IN_FEATURES": ["res5"]}))
        assert model.proposal_generator.rpn_head.conv.in_channels == 24

    def test_it_trains(self):
        model = build_detector(REDUCED).train()
        with EventStorage():
            losses = model([{"image": make_video(1)[0], "instances": make_targets()}])
        sum(losses.values()).backward()
        assert model.roi_heads.reduce["res5"][0].weight.grad.ne(0).any()


class TestLinearBoxHead:
    @staticmethod
    def make(kind=LinearBoxHead, **arguments):
        torch.manual_seed(0)
        values = {"conv_dims": [], "fc_dims": [6]} | arguments
        return kind(ShapeSpec(channels=2, height=3, width=3), **values)

    @pytest.mark.parametrize("arguments", [{}, {"fc_dims": [5, 6]}, {"conv_dims": [4]}], ids=["one", "two", "conv"])
    def test_its_activation_is_what_the_door_s_head_gives(self, arguments):
        linear, plain = self.make(**arguments), self.make(FastRCNNConvFCHead, **arguments)
        assert shapes_of(linear) == shapes_of(plain) and linear.output_shape == plain.output_shape
        plain.load_state_dict(linear.state_dict())
        x = torch.randn(5, 2, 3, 3)
        assert linear(x).lt(0).any() and functional.relu(linear(x)).equal(plain(x))

    def test_one_layer_is_a_linear_map_of_the_roi(self):
        head, x = self.make().double(), torch.randn(5, 2, 3, 3, dtype=torch.float64)
        torch.testing.assert_close(head(x), x.flatten(1) @ head.fc1.weight.T + head.fc1.bias, rtol=1e-10, atol=1e-10)

    def test_no_rois_give_no_rows_forward_and_backward(self):
        head = self.make()
        out = head(torch.zeros(0, 2, 3, 3))
        out.sum().backward()
        assert out.shape == (0, 6) and head.fc1.weight.grad.eq(0).all()

    def test_without_a_fully_connected_layer_it_is_refused(self):
        keys = {"NAME": "LinearBoxHead", "NUM_FC": 0, "NUM_CONV": 1}
        with pytest.raises(UserError, match="set MODEL.ROI_BOX_HEAD.NUM_FC to 1 or more"):
            build_model(tiny_cfg({f"MODEL.ROI_BOX_HEAD.{key}": value for key, value in keys.items()}))
