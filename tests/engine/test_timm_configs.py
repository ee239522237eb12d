"""The configurations on backbones of timm build, and read what they set."""

import pytest
import torch

from helpers.models import ROOT
from vod2.d2 import build_model
from vod2.engine import load_config

pytest.importorskip("timm", reason="timm is not installed")

FOLDER = ROOT / "configs" / "timm"
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml")) if not path.stem.startswith("Base")}
MILLIONS = {"ConvNeXt_T": 28, "Swin_T": 27, "DINOv2_S": 21, "EfficientNet_Lite0": 2.9}


@pytest.mark.parametrize("name", CONFIGS)
def test_its_detector_builds(name):
    method, _, backbone = name.partition("_")
    # Nothing is downloaded, and no weight is drawn.
    cfg = load_config(str(CONFIGS[name]), ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "False"])
    assert cfg.OUTPUT_DIR == f"output/timm/{name}"
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    bottom_up = sum(parameter.numel() for parameter in model.backbone.bottom_up.parameters()) / 1e6
    if method == "Quick":
        assert bottom_up < 2
    else:
        assert MILLIONS[backbone] * 0.95 < bottom_up < MILLIONS[backbone] * 1.1
        aggregators = {"FasterRCNN": "NoneType", "RDN": "RDNAggregator", "SELSA": "SELSAAggregator"}
        assert type(model.roi_heads.aggregator).__name__ == aggregators[method]


def test_each_backbone_has_a_single_frame_rdn_and_selsa():
    methods = {f"{method}_{backbone}" for method in ("FasterRCNN", "RDN", "SELSA") for backbone in MILLIONS}
    assert methods == {name for name in CONFIGS if not name.startswith("Quick")}
