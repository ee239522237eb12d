"""torchvision: ResNets and ResNeXts trained on ImageNet, and its Faster R-CNNs with a feature pyramid, trained on COCO.

Its published detectors with frozen normalisation (`fasterrcnn_resnet50_fpn`) add nothing to the variance; batch
normalisation (ImageNet, `fasterrcnn_resnet50_fpn_v2`) adds 1e-5.
"""

from vod2.checkpoint.sources.rules import (
    BACKGROUND_LAST,
    FROZEN_BN_EPS,
    REVERSE_COLOURS,
    WITHOUT_BACKGROUND,
    Rule,
    Source,
    State,
    Target,
    imagenet_colours,
    resnet_rules,
    start_config,
)

_RPN = "proposal_generator.rpn_head."
_LEVELS = (2, 3, 4, 5)

_DETECTOR = (
    *(
        rule
        for number, level in enumerate(_LEVELS)
        for theirs, ours in (("inner", "lateral"), ("layer", "output"))
        for rule in (
            Rule(
                rf"backbone\.fpn\.{theirs}_blocks\.{number}(?:\.0)?\.(weight|bias)", rf"backbone.fpn_{ours}{level}.\1"
            ),
            Rule(rf"backbone\.fpn\.{theirs}_blocks\.{number}\.1\.(\w+)", rf"backbone.fpn_{ours}{level}.norm.\1"),
        )
    ),
    Rule(r"rpn\.head\.conv(?:\.0\.0)?\.(weight|bias)", rf"{_RPN}conv.\1"),
    # One size for each level: there is nothing to reorder.
    Rule(r"rpn\.head\.cls_logits\.(weight|bias)", rf"{_RPN}objectness_logits.\1"),
    Rule(r"rpn\.head\.bbox_pred\.(weight|bias)", rf"{_RPN}anchor_deltas.\1"),
    Rule(r"roi_heads\.box_head\.(?:fc6|5)\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
    Rule(r"roi_heads\.box_head\.fc7\.(weight|bias)", r"roi_heads.box_head.fc2.\1"),
    *(
        rule
        for number in (0, 1, 2, 3)
        for rule in (
            Rule(rf"roi_heads\.box_head\.{number}\.0\.weight", f"roi_heads.box_head.conv{number + 1}.weight"),
            Rule(rf"roi_heads\.box_head\.{number}\.1\.(\w+)", rf"roi_heads.box_head.conv{number + 1}.norm.\1"),
        )
    ),
    Rule(
        r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"roi_heads.box_predictor.cls_score.\1", BACKGROUND_LAST
    ),
    Rule(
        r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)",
        r"roi_heads.box_predictor.bbox_pred.\1",
        WITHOUT_BACKGROUND,
    ),
)

_TWO_CONVOLUTIONS = tuple(  # of the RPN of v2
    Rule(rf"rpn\.head\.conv\.{number}\.0\.(weight|bias)", rf"{_RPN}conv.conv{number}.\1") for number in (0, 1)
)


def _rules(state: State) -> tuple[Rule, ...]:
    if not any(name.startswith("backbone.body.") for name in state):
        return resnet_rules("", "", REVERSE_COLOURS)
    body = r"backbone\.body\."
    convolutions = _TWO_CONVOLUTIONS if "rpn.head.conv.1.0.weight" in state else ()
    return (*resnet_rules(body, body, REVERSE_COLOURS), *convolutions, *_DETECTOR)


def _norm_eps(state: State) -> float:
    """Nothing is added in a detector with frozen normalisation, which counts no batches."""
    detector = any(name.startswith("backbone.body.") for name in state)
    return 0.0 if detector and not any(name.endswith("num_batches_tracked") for name in state) else FROZEN_BN_EPS


def _default_config(state: State) -> str:
    detector = any(name.startswith("backbone.body.") for name in state)
    return start_config(state, f"{'backbone.body.' if detector else ''}layer{{}}.{{}}.{{}}.weight")


def _settings(state: State, target: Target) -> dict[str, object]:
    return imagenet_colours(target) | {"MODEL.RESNETS.STRIDE_IN_1X1": False}


SOURCE = Source(
    rules=_rules,
    default_config=_default_config,
    settings=_settings,
    # fc is the classifier of ImageNet, which a detector does not have
    computed=r".*num_batches_tracked|fc\.(weight|bias)",
    norm_eps=_norm_eps,
    partial=True,
)
