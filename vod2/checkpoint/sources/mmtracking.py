"""SELSA of mmtracking, also with Temporal RoI Align, on ResNet-50, ResNet-101 and ResNeXt-101 64x4d.

conv5 ends in a 3x3 convolution to 512 channels, which the RPN and the heads share: `HeadMapBackbone` with dilation 1.
Classes are in the order of ImageNet VID, the background is the last one.
"""

from vod2.checkpoint.sources.rules import (
    REVERSE_COLOURS,
    SIZE_MAJOR,
    SIZE_MAJOR_DELTAS,
    Rule,
    Source,
    State,
    Target,
    backbone_name,
    imagenet_colours,
    rescaled_deltas,
    resnet_rules,
)

_BODY, _RPN, _HEAD = r"detector\.backbone\.", r"detector\.rpn_head\.", r"detector\.roi_head\.bbox_head\."
_EXTRACTOR = r"detector\.roi_head\.bbox_roi_extractor\."
_RPN_HEAD = "proposal_generator.rpn_head."
_RELATION = {"fc_embed": "query", "ref_fc_embed": "key", "ref_fc": "value", "fc": "output"}

# The standard deviations by which that code multiplies predicted deltas
_DELTAS = rescaled_deltas((0.2, 0.2, 0.2, 0.2))

_RULES = (
    *resnet_rules(_BODY, _BODY, REVERSE_COLOURS),
    Rule(r"detector\.neck\.convs\.0\.conv\.(weight|bias)", r"backbone.last_conv.\1"),
    Rule(rf"{_RPN}rpn_conv\.(weight|bias)", rf"{_RPN_HEAD}conv.\1"),
    Rule(rf"{_RPN}rpn_cls\.(weight|bias)", rf"{_RPN_HEAD}objectness_logits.\1", SIZE_MAJOR),
    Rule(rf"{_RPN}rpn_reg\.(weight|bias)", rf"{_RPN_HEAD}anchor_deltas.\1", SIZE_MAJOR_DELTAS),
    Rule(rf"{_HEAD}shared_fcs\.0\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
    Rule(rf"{_HEAD}shared_fcs\.1\.(weight|bias)", r"roi_heads.aggregator.transform.0.\1"),
    Rule(rf"{_HEAD}shared_fcs\.2\.(weight|bias)", r"roi_heads.aggregator.transform.1.\1"),
    Rule(rf"{_EXTRACTOR}embed_network\.conv\.(weight|bias)", r"roi_heads.temporal.attention.embed.\1"),
    *(
        Rule(rf"{_HEAD}aggregator\.(\d)\.{theirs}\.(weight|bias)", rf"roi_heads.aggregator.relation.\1.{ours}.\2")
        for theirs, ours in _RELATION.items()
    ),
    Rule(rf"{_HEAD}fc_cls\.(weight|bias)", r"roi_heads.box_predictor.cls_score.\1"),
    Rule(rf"{_HEAD}fc_reg\.(weight|bias)", r"roi_heads.box_predictor.bbox_pred.\1", _DELTAS),
)


def _method(state: State) -> str:
    """What our configurations call it."""
    is_temporal = any(name.startswith("detector.roi_head.bbox_roi_extractor.embed_network.") for name in state)
    return "TROIAlign" if is_temporal else "SELSA"


def _default_config(state: State) -> str:
    if not any(name.startswith("detector.roi_head.bbox_head.aggregator.") for name in state):
        raise ValueError("its head is not that of SELSA")
    backbone = backbone_name(state, "detector.backbone.layer{}.{}.{}.weight")
    return f"published/{_method(state)}_mmtracking_{backbone}.yaml"


def _settings(state: State, target: Target) -> dict[str, object]:
    settings = imagenet_colours(target) | {
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.RES5_DILATION": 2,
        "MODEL.HEAD_MAP.DILATION": 1,
        "MODEL.RPN.IN_FEATURES": ["head_map"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["head_map"],
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "MODEL.SELSA.NUM_HEADS": 16,
        "MODEL.SELSA.UPDATE_SUPPORTS": False,
    }
    # The numbers of cells and heads leave no trace in the weights: they are those of mmtracking's configurations.
    if _method(state) == "TROIAlign":
        settings |= {"MODEL.TROIALIGN.NUM_SIMILAR": 2, "MODEL.TROIALIGN.NUM_HEADS": 4}
    return settings


SOURCE = Source(rules=lambda state: _RULES, default_config=_default_config, settings=_settings)
