"""The public PyTorch code of MEGA, which also holds RDN, FGFA, DFF and the single frame."""

import re

from torch import Tensor

from vod2.checkpoint.sources.rules import (
    BACKGROUND_LAST,
    FLAT,
    SIZE_MAJOR,
    SIZE_MAJOR_DELTAS,
    WITHOUT_BACKGROUND,
    Rule,
    Source,
    State,
    Target,
    Transform,
    backbone_name,
    resnet_rules,
)
from vod2.layers.flow_warp import PUBLIC_NAMES

_HEAD = r"roi_heads\.box\.feature_extractor\."
_AGGREGATOR = "roi_heads.aggregator."
_FLOOR = 1e-6  # is added to a geometry weight after its ReLU there; here it is the least that a weight can be


def _raised(tensor: Tensor, target: Target) -> Tensor:
    """log(ReLU(z) + floor) = log(max(z + floor, floor)); in float64, where the sum is exact."""
    return tensor.double() + _FLOOR


_FOLDED = Transform("u folded into the query's bias", lambda tensor, target: tensor)  # by `_fold_offsets`
_RAISED = Transform(f"+ {_FLOOR:g}, the floor of the geometry", _raised)


def _relation_rules(kind: str, number: int, name: str, geometry: bool = True) -> tuple[Rule, ...]:
    """Relation module `number` of a `kind` ("", "l_", "g_"); `name` is the `RelationAttention`."""
    theirs, ours = rf"{_HEAD}{kind}W%s\.{number}\.", f"{_AGGREGATOR}{name}."
    rules = [
        Rule(theirs % "qs" + "weight", f"{ours}query.weight"),
        Rule(theirs % "qs" + "bias", f"{ours}query.bias", _FOLDED if kind else None),
        Rule(theirs % "ks" + "(weight|bias)", rf"{ours}key.\1"),
        # A grouped 1x1 convolution, one group for each head, on that head's sum of whole features.
        Rule(theirs % "vs" + "weight", f"{ours}value.weight", FLAT),
        Rule(theirs % "vs" + "bias", f"{ours}value.bias"),
    ]
    if geometry:
        rules += [
            Rule(theirs % "gs" + "weight", f"{ours}geometry.projection.weight", FLAT),
            Rule(theirs % "gs" + "bias", f"{ours}geometry.projection.bias", _RAISED),
        ]
    return tuple(rules)


_RULES = (
    *resnet_rules(r"backbone\.body\.stem\.", rf"(?:backbone\.body\.|{_HEAD}head\.)"),
    # Before pooling, in models on ResNet-50
    Rule(rf"{_HEAD}conv\.(weight|bias)", r"roi_heads.reduce.res5.0.\1"),
    Rule(r"rpn\.head\.conv\.(weight|bias)", r"proposal_generator.rpn_head.conv.\1"),
    Rule(r"rpn\.head\.cls_logits\.(weight|bias)", r"proposal_generator.rpn_head.objectness_logits.\1", SIZE_MAJOR),
    Rule(r"rpn\.head\.bbox_pred\.(weight|bias)", r"proposal_generator.rpn_head.anchor_deltas.\1", SIZE_MAJOR_DELTAS),
    Rule(rf"{_HEAD}(?:fc6|fcs\.0|l_fcs\.0)\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
    Rule(rf"{_HEAD}fc7\.(weight|bias)", r"roi_heads.box_head.fc2.\1"),
    Rule(
        r"roi_heads\.box\.predictor\.cls_score\.(weight|bias)", r"roi_heads.box_predictor.cls_score.\1", BACKGROUND_LAST
    ),
    Rule(
        r"roi_heads\.box\.predictor\.bbox_pred\.(weight|bias)",
        r"roi_heads.box_predictor.bbox_pred.\1",
        WITHOUT_BACKGROUND,
    ),
    # RDN
    *_relation_rules("", 0, "basic.0"),
    *_relation_rules("", 1, "basic.1"),
    *_relation_rules("", 2, "refine"),
    *_relation_rules("", 3, "distill"),
    Rule(rf"{_HEAD}fcs\.1\.(weight|bias)", rf"{_AGGREGATOR}transform.0.\1"),
    Rule(rf"{_HEAD}fcs\.2\.(weight|bias)", rf"{_AGGREGATOR}refine_transform.\1"),
    # MEGA
    *(rule for number in (0, 1, 2) for rule in _relation_rules("l_", number, f"local_relations.{number}")),
    *(
        rule
        for number in (0, 1)
        for rule in _relation_rules("g_", number, f"global_relations.{number}", geometry=False)
    ),
    Rule(rf"{_HEAD}l_fcs\.1\.(weight|bias)", rf"{_AGGREGATOR}transform.0.\1"),
    Rule(rf"{_HEAD}l_fcs\.2\.(weight|bias)", rf"{_AGGREGATOR}transform.1.\1"),
    # DFF and FGFA
    *(
        Rule(rf"flownet\.{theirs}\.(weight|bias)", rf"pixel_aggregator.flownet.{ours}.\1")
        for theirs, ours in PUBLIC_NAMES.items()
    ),
    *(
        Rule(rf"embednet\.embed_conv{number + 1}\.(weight|bias)", rf"pixel_aggregator.embedding.{2 * number}.\1")
        for number in (0, 1, 2)
    ),
)


def _fold_offsets(state: State) -> State:
    """MEGA's learned u (h, 1, d): (q.k + u.k) = (q + u).k, so u is a part of the query's bias.

    In float64, where the sum is exact: a detector of any precision can be filled with it.
    """
    folded = dict(state)
    for name, bias in state.items():
        match = re.fullmatch(rf"({_HEAD}[lg]_)Wqs(\.\d+)\.bias", name)
        if match:
            offset = folded.pop(f"{match.group(1)}us{match.group(2)}", None)
            if offset is None or offset.numel() != bias.numel():
                raise ValueError(f"{match.group(1)}us{match.group(2)} of {bias.numel()} numbers is missing")
            folded[name] = bias.double() + offset.double().flatten()
    return folded


_METHODS = (  # the first that one of the names has
    ("embednet.", "FGFA"),
    ("flownet.Convolution5_scale.", "DFF"),
    ("roi_heads.box.feature_extractor.l_Wqs.", "MEGA"),
    ("roi_heads.box.feature_extractor.fcs.2.", "RDN"),
    ("roi_heads.box.feature_extractor.fcs.1.", "RDN_Base"),
    ("roi_heads.box.feature_extractor.fc6.", "FasterRCNN"),
)


def _method(state: State) -> str:
    """A name of `_METHODS`, "" for none."""
    for prefix, method in _METHODS:
        if any(name.startswith(prefix) for name in state):
            return method
    return ""


def _default_config(state: State) -> str:
    method = _method(state)
    if not method:
        raise ValueError("its head is none of the single frame, RDN, MEGA, FGFA, DFF")
    return f"published/{method}_{backbone_name(state, 'backbone.body.layer{}.{}.{}.weight')}.yaml"


def _settings(state: State, target: Target) -> dict[str, object]:
    settings = {
        "INPUT.FORMAT": "BGR",
        "INPUT.RESIZE_TRUNCATES": True,
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.RES5_DILATION": 2,
        "MODEL.ANCHOR_GENERATOR.NAME": "RoundedAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
        "MODEL.LEGACY.INCLUSIVE_BOXES": True,
        "MODEL.LEGACY.KEEP_TIES": True,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
        "TEST.VID_PROTOCOL": "mega",
    }
    logits = state.get("rpn.head.cls_logits.bias")
    if logits is not None and len(logits) == 12 and target.ratios == 3:  # else they were trained with other anchors
        settings["MODEL.ANCHOR_GENERATOR.SIZES"] = [[64, 128, 256, 512]]
        settings["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [[0.5, 1.0, 2.0]]
    if _method(state) in ("RDN", "RDN_Base", "MEGA", "FGFA"):  # windows of frames
        settings["VIDEO.TEST_SCHEDULE.EDGE"] = "repeat"
    if any(name.startswith("flownet.") for name in state):
        settings["MODEL.FLOWNET.LEGACY_WARP"] = True
    if _method(state) == "DFF":
        settings["MODEL.DFF.WARP_KEYFRAMES"] = True
    return settings


SOURCE = Source(
    rules=lambda state: _RULES,
    default_config=_default_config,
    settings=_settings,
    computed=r"rpn\.anchor_generator\.cell_anchors\.\d+|.*num_batches_tracked",
    prepare=_fold_offsets,
    norm_eps=lambda state: 0.0,
)
