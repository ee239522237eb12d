"""The pyramid of a vision transformer: its maps against plain loops, position embeddings, freezing, what is refused."""

import pytest
import torch
from torch import Tensor, nn

from helpers.models import tiny_cfg
from helpers.timm_models import TRANSFORMERS, VIT_KEYS
from vod2.d2 import BACKBONE_REGISTRY, Backbone, ShapeSpec
from vod2.errors import UserError
from vod2.modeling.simple_pyramid import SimplePyramid

DINOV3 = {"MODEL.TIMM.NAME": "vit_small_patch16_dinov3", "MODEL.TIMM.OPTIONS": [["depth", 2], ["embed_dim", 48]]}


class Given(Backbone):
    """Gives the map that it was made with."""

    def __init__(self, value: Tensor, stride: int = 16) -> None:
        super().__init__()
        self.value, self.stride = value, stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.value}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=self.value.shape[1], stride=self.stride)}


def twice(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """(C, H, W) -> (D, 2H, 2W): each cell becomes four, by a matrix of its own for each corner."""
    _, height, width = x.shape
    found = torch.empty(layer.out_channels, 2 * height, 2 * width, dtype=x.dtype)
    for row in range(2 * height):
        for column in range(2 * width):
            matrix = layer.weight[:, :, row % 2, column % 2]  # (C, D)
            found[:, row, column] = x[:, row // 2, column // 2] @ matrix + layer.bias
    return found


def normalised(x: Tensor) -> Tensor:
    """(C, H, W), each position over its channels, with fresh weights 1 and 0."""
    mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
    return (x - mean) / (variance + 1e-6).sqrt()


@torch.no_grad()
def test_levels_are_the_map_scaled_by_transposed_convolutions_and_pooling():
    torch.manual_seed(0)
    value = torch.randn(1, 8, 2, 4, dtype=torch.float64)
    pyramid = SimplePyramid(Given(value), 4, "LN").double()
    found = pyramid(torch.zeros(1, 3, 32, 64))
    first, _, _, second = pyramid.levels["p2"][:4]
    scaled = {
        "p2": twice(nn.functional.gelu(normalised(twice(value[0], first))), second),
        "p3": twice(value[0], pyramid.levels["p3"][0]),
        "p4": value[0],
        "p5": value[0].reshape(8, 1, 2, 2, 2).amax(dim=(2, 4)),
    }
    for name, expected in scaled.items():
        small, large = pyramid.levels[name][-2:]
        expected = normalised(torch.einsum("dc,chw->dhw", small.weight[:, :, 0, 0], expected))
        _, height, width = expected.shape
        padded, output = nn.functional.pad(expected, (1, 1, 1, 1)), torch.zeros(4, height, width, dtype=torch.float64)
        for row in range(height):
            for column in range(width):
                output[:, row, column] = (large.weight * padded[:, row : row + 3, column : column + 3]).sum((1, 2, 3))
        torch.testing.assert_close(found[name][0], normalised(output))
    assert found["p6"].equal(found["p5"][..., ::2, ::2])
    strides = {name: shape.stride for name, shape in pyramid.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64} and pyramid.size_divisibility == 32


def test_a_map_of_another_stride_is_refused():
    with pytest.raises(ValueError, match="expected a map of stride 16, got 32"):
        SimplePyramid(Given(torch.zeros(1, 8, 2, 2), 32), 4)


# Of timm


def make_pyramid(keys: dict) -> SimplePyramid:
    cfg = tiny_cfg(VIT_KEYS | keys)
    torch.manual_seed(0)
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3)).eval()


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize("keys", [*TRANSFORMERS.values(), DINOV3], ids=[*TRANSFORMERS, "DINOv3"])
def test_every_level_has_the_size_of_its_stride_at_any_size_of_image(timm, keys):
    pyramid = make_pyramid(keys)
    for height, width in ((32, 64), (96, 64)):
        with torch.no_grad():
            maps = pyramid(torch.randn(1, 3, height, width))
        for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32)):
            assert maps[name].shape == (1, 16, height // stride, width // stride)


def test_the_map_is_timms_own_of_an_image_whose_patches_have_14_pixels(timm):
    transformer = make_pyramid(TRANSFORMERS["ViT-14"]).bottom_up
    plain = timm.create_model("test_vit", patch_size=14, img_size=56, dynamic_img_size=True, num_classes=0).eval()
    plain.load_state_dict(transformer.model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    small = nn.functional.interpolate(image, size=(56, 56), mode="bilinear", align_corners=False)
    with torch.no_grad():
        tokens = plain.forward_features(small)[:, 1:]  # (1, 16, C), without the class token
        found = transformer(image)["last"]
    torch.testing.assert_close(found[0].flatten(1).T, tokens[0])


def test_position_embeddings_are_those_of_the_place_in_the_image(timm):
    transformer = make_pyramid(TRANSFORMERS["ViT-14"]).bottom_up
    with torch.no_grad():
        transformer.model.pos_embed.copy_(torch.linspace(-1, 1, 17)[None, :, None])  # grows from cell to cell
        large = transformer.model._pos_embed(torch.zeros(1, 8, 8, 64))[0, 1:, 0].view(8, 8)
    assert (large.diff(dim=0).mean() > 0) and large[0, 0] < large[4, 4] < large[7, 7]


@pytest.mark.parametrize("freeze_at, blocks", [(0, 0), (1, 0), (3, 2), (7, 6)])
def test_the_embedding_and_the_first_blocks_can_be_frozen(timm, freeze_at, blocks):
    keys = {"MODEL.BACKBONE.FREEZE_AT": freeze_at, "MODEL.TIMM.DROP_PATH": 0.5}
    model = make_pyramid(TRANSFORMERS["ViT"] | keys).train().bottom_up.model
    assert model.pos_embed.requires_grad == (freeze_at == 0) == model.patch_embed.proj.weight.requires_grad
    learns = [any(parameter.requires_grad for parameter in block.parameters()) for block in model.blocks]
    assert learns == [False] * blocks + [True] * (6 - blocks) and model.norm.weight.requires_grad
    assert [block.training for block in model.blocks] == learns  # a block that does not learn is always whole


@pytest.mark.parametrize(
    "keys, said",
    [
        (
            {"MODEL.TIMM.NAME": "test_convnext"},
            "no plain vision transformer: set MODEL.BACKBONE.NAME to 'build_timm_fpn",
        ),
        ({"MODEL.TIMM.NAME": "vit_small_patch32_224"}, "with patches of 32 pixels: expected 14 or 16"),
        (TRANSFORMERS["ViT"] | {"MODEL.BACKBONE.FREEZE_AT": 8}, "FREEZE_AT is 8: expected at most 7"),
    ],
)
def test_other_models_are_refused(timm, keys, said):
    with pytest.raises(UserError, match=said):
        make_pyramid(keys)
