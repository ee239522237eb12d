"""FlowNetS of public code against the flow network that is filled with its weights, and how a training gets them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.conversion import random, tool_main
from helpers.models import LSTS_KEYS, ROOT, build_detector, tiny_cfg
from vod2 import UserError
from vod2.checkpoint import Target, compare, convert, load_flow_weights
from vod2.checkpoint.public_file import write_weights
from vod2.d2 import build_model
from vod2.engine import VideoTrainer
from vod2.layers import FlowNetS
from vod2.layers.flow_warp import PUBLIC_NAMES

WIDTH = 1 / 16
DFF = {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "DFFAggregator", "MODEL.FLOWNET.WIDTH": WIDTH}
LSTS = LSTS_KEYS | {
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator",
    "MODEL.ALIGNER.NAME": "FlowNetS",
    "MODEL.FLOWNET.WIDTH": WIDTH,
    "MODEL.LSTS.SHARED": False,
}
CONTRACT = {"1": (6, 4, 7, 2), "2": (4, 8, 5, 2), "3": (8, 16, 5, 2), "3_1": (16, 16, 3, 1), "4": (16, 32, 3, 2)}
CONTRACT |= {"4_1": (32, 32, 3, 1), "5": (32, 32, 3, 2), "5_1": (32, 32, 3, 1), "6": (32, 64, 3, 2)}
CONTRACT |= {"6_1": (64, 64, 3, 1)}


class PublicFlowNetS(nn.Module):
    """FlowNetPytorch's network with its names, a sixteenth as wide; with drawn weights."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, (before, after, kernel, stride) in CONTRACT.items():
            conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=not batch_norm)
            norm = [nn.BatchNorm2d(after)] if batch_norm else []
            self.add_module(f"conv{name}", nn.Sequential(conv, *norm, nn.LeakyReLU(0.1)))
        joined = 64
        for level, skip, up in ((5, 32, 32), (4, 32, 16), (3, 16, 8), (2, 8, 4)):
            deconv = nn.ConvTranspose2d(joined, up, 4, 2, 1, bias=False)
            self.add_module(f"deconv{level}", nn.Sequential(deconv, nn.LeakyReLU(0.1)))
            self.add_module(f"predict_flow{level + 1}", nn.Conv2d(joined, 2, 3, padding=1, bias=False))
            upsampled = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False)
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", upsampled)
            joined = skip + up + 2
        self.predict_flow2 = nn.Conv2d(joined, 2, 3, padding=1, bias=False)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm2d)):
            for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                value.uniform_(0.5, 1.5)
        self.double().eval()

    def forward(self, pair: Tensor) -> Tensor:
        """(1, 6, H, W) -> what predicts the flow of a quarter of its size, (1, C, H/4, W/4)."""
        x, maps = pair, {}
        for name in CONTRACT:
            x = maps[name[0]] = getattr(self, f"conv{name}")(x)
        for level in (5, 4, 3, 2):
            flow = getattr(self, f"upsampled_flow{level + 1}_to_{level}")(getattr(self, f"predict_flow{level + 1}")(x))
            skip = maps[str(level)]
            height, width = skip.shape[-2:]
            up = getattr(self, f"deconv{level}")(x)
            x = torch.cat([skip, up[..., :height, :width], flow[..., :height, :width]], dim=1)
        return x

    def cells(self, pair: Tensor) -> Tensor:
        """The flow (1, 2, H/8, W/8) where the image is half of a frame: in its pixels / 20, in cells of 16 pixels."""
        return self.predict_flow2(F.avg_pool2d(self(pair), 2)) * 20 * 2 / 16


def named_as_mmtracking(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        layer, *_, part = name.split(".")
        kind, _, rest = layer.partition("_")
        if kind.startswith("conv"):
            layer = f"{kind}.{rest or 0}"
        elif layer.startswith("upsampled"):
            layer = f"upsample_flow{layer[-1]}"
        elif layer == "predict_flow2":
            layer = "predict_flow"
        renamed[f"motion.{layer}.conv.{part}"] = value
    return renamed


def filled(state: dict[str, Tensor], bgr: bool) -> FlowNetS:
    network = FlowNetS(WIDTH).double()
    done = convert(state, "flownets", Target(bgr=bgr))
    assert not done.unused
    network.load_state_dict(done.state)
    return network


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("names, batch_norm", [(dict, False), (dict, True), (named_as_mmtracking, False)])
def test_the_flow_is_that_of_the_public_network(names, batch_norm, bgr):
    theirs = PublicFlowNetS(batch_norm)
    state = names(theirs.state_dict())
    current, reference = random(2, 1, 3, 128, 192, seed=1)
    images = (current.flip(1), reference.flip(1)) if bgr else (current, reference)
    flow = filled(state, bgr)(*images).flow
    expected = theirs.cells(torch.cat([current, reference], dim=1))
    assert expected.std() > 0.01  # a flow of about 0 would say nothing
    torch.testing.assert_close(flow, expected, rtol=1e-9, atol=1e-11)


def test_under_the_names_of_caffe_every_tensor_stays_as_it_is():
    ours = FlowNetS(WIDTH, scale_channels=4).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    here = ours.state_dict()
    state = {f"flownet.{there}.weight": here[f"{name}.weight"] for there, name in PUBLIC_NAMES.items()}
    state |= {f"flownet.{there}.bias": here[f"{name}.bias"] for there, name in PUBLIC_NAMES.items() if name != "scale"}
    done = convert(state, "flownets")
    assert not done.unused
    assert done.state.keys() == here.keys() - {"scale.weight"}
    assert all(value.equal(here[name]) for name, value in done.state.items())


def test_the_public_network_is_that_of_the_configurations():
    """In its full width, under FlowNetPytorch's names: without the biases that it has not, 38,676,504 numbers."""
    with torch.device("meta"):
        ours = FlowNetS()
    state, missing = {}, 0
    for name, value in ours.state_dict().items():
        layer, number = name.split(".")[0], int(name.split(".")[1]) if name.count(".") > 1 else 0
        there = {
            "contract": f"conv{list(CONTRACT)[number]}.0",
            "expand": f"deconv{5 - number}.0",
            "predict": f"predict_flow{6 - number}",
            "upsample": f"upsampled_flow{6 - number}_to_{5 - number}",
            "flow": "predict_flow2",
        }[layer]
        if name.endswith("weight") or layer == "contract":
            state[f"{there}.{name.rpartition('.')[2]}"] = torch.tensor(1.0).expand(value.shape)
        else:
            missing += value.numel()
    assert missing == 512 + 256 + 128 + 64 + 2 * 9
    report = compare(ours, convert(state, "flownets").state, "")
    assert not report.new and not report.other_shape and not report.unused


@pytest.mark.parametrize("keys", [DFF, LSTS], ids=["DFF", "LSTS"])
def test_every_flow_network_of_a_method_begins_with_the_file(keys, tmp_path):
    path = str(tmp_path / "flownets.safetensors")
    write_weights(path, convert(PublicFlowNetS(False).float().state_dict(), "flownets").state, {})
    cfg = tiny_cfg(keys | {"MODEL.WEIGHTS": "", "MODEL.FLOWNET.WEIGHTS": path})
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = SimpleNamespace(checkpointer=SimpleNamespace(model=model), cfg=cfg)
    VideoTrainer.resume_or_load(trainer, resume=False)
    wanted = convert(PublicFlowNetS(False).float().state_dict(), "flownets").state
    found = 0
    for name, value in model.state_dict().items():
        own = name.partition("flownet.")[2]
        assert value.cpu().equal(wanted[own] if own in wanted else before[name].cpu())
        found += own in wanted
    assert found == len(wanted) * (1 if keys is DFF else 2)


def test_a_network_of_another_width_or_no_network_at_all_is_refused(tmp_path):
    path = str(tmp_path / "flownets.safetensors")
    write_weights(path, FlowNetS(WIDTH).state_dict(), {})
    with pytest.raises(UserError, match="'contract.0.weight' has the shape .*expected"):
        load_flow_weights(build_model(tiny_cfg(DFF | {"MODEL.FLOWNET.WIDTH": 0.03})), path)
    with pytest.raises(UserError, match="the model has no flow network"):
        load_flow_weights(build_detector(), path)
    with pytest.raises(UserError, match="'nowhere.pth' do not exist: give a local file with MODEL.FLOWNET.WEIGHTS"):
        load_flow_weights(build_detector(DFF), "nowhere.pth")


def test_the_tool_converts_a_public_checkpoint_and_tells_how_to_train_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = PublicFlowNetS(False).float()
    torch.save({"arch": "flownets", "state_dict": theirs.state_dict(), "div_flow": 20}, "flownets.pth.tar")
    config = str(ROOT / "configs" / "DFF_R101.yaml")
    words = ["--from", "flownets", "flownets.pth.tar", "flownets.safetensors", "--config-file", config]
    tool_main()([*words, "--opts", "MODEL.FLOWNET.WIDTH", str(WIDTH), "MODEL.DEVICE", "cpu"])
    assert f"DFF_R101.yaml MODEL.FLOWNET.WEIGHTS flownets.safetensors MODEL.FLOWNET.WIDTH {WIDTH}" in (
        capsys.readouterr().out
    )
    model = build_detector(DFF)
    load_flow_weights(model, "flownets.safetensors")
    weight = model.pixel_aggregator.flownet.contract[1].weight
    assert weight.cpu().equal(theirs.conv2[0].weight)
