"""torchvision: ResNets and ResNeXts trained on ImageNet, and its Faster R-CNNs with a feature pyramid, trained on COCO.

Its published detectors with frozen normalisation (`fasterrcnn_resnet50_fpn`) add nothing to the variance; batch
normalisation (ImageNet, `fasterrcnn_resnet50_fpn_v2`) adds 1e-5.
"""

from torch import Tensor

from vod2.checkpoint.sources.rules import (
    BACKGROUND_LAST,
    FROZEN_BN_EPS,
    REVERSE_COLOURS,
    WITHOUT_BACKGROUND,
    Rule,
    Source,
    State,
    Target,
    Transform,
    backbone_name,
    imagenet_colours,
    resnet_rules,
    start_config,
)
from vod2.coco import COCO_IDS

_RPN = "proposal_generator.rpn_head."
_LEVELS = (2, 3, 4, 5)
_PREDICTOR = r"roi_heads\.box_predictor\."
_COCO_ROWS = 91  # the background, and one for each of the ids 1 .. 90, of which no category has ten


def _coco_scores(tensor: Tensor, target: Target) -> Tensor:
    if target.classes == _COCO_ROWS - 1:  # a detector of as many classes that are not COCO's
        return BACKGROUND_LAST.apply(tensor, target)
    return tensor[[*COCO_IDS, 0]]


def _coco_deltas(tensor: Tensor, target: Target) -> Tensor:
    if target.classes == _COCO_ROWS - 1:
        return WITHOUT_BACKGROUND.apply(tensor, target)
    return tensor.unflatten(0, (-1, 4))[list(COCO_IDS)].flatten(0, 1)


_COCO_SCORES = Transform("background: first row to last; ids without a category dropped", _coco_scores)
_COCO_DELTAS = Transform("background and ids without a category dropped", _coco_deltas)

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
)

_TWO_CONVOLUTIONS = tuple(  # of the RPN of v2
    Rule(rf"rpn\.head\.conv\.{number}\.0\.(weight|bias)", rf"{_RPN}conv.conv{number}.\1") for number in (0, 1)
)


def _is_detector(state: State) -> bool:
    return any(name.startswith("backbone.body.") for name in state)


def _is_faster_rcnn(state: State) -> bool:
    return _is_detector(state) and "roi_heads.box_predictor.cls_score.weight" in state


def _is_v2(state: State) -> bool:
    """Whether the RPN has two convolutions, as that of `fasterrcnn_resnet50_fpn_v2`."""
    return "rpn.head.conv.1.0.weight" in state


def _predictor_rules(state: State) -> tuple[Rule, ...]:
    """COCO's detectors have a row for each id, also for those that no category has; others have one for each class."""
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    is_coco = scores is not None and scores.shape[0] == _COCO_ROWS
    return (
        Rule(
            rf"{_PREDICTOR}cls_score\.(weight|bias)",
            r"roi_heads.box_predictor.cls_score.\1",
            _COCO_SCORES if is_coco else BACKGROUND_LAST,
        ),
        Rule(
            rf"{_PREDICTOR}bbox_pred\.(weight|bias)",
            r"roi_heads.box_predictor.bbox_pred.\1",
            _COCO_DELTAS if is_coco else WITHOUT_BACKGROUND,
        ),
    )


def _rules(state: State) -> tuple[Rule, ...]:
    if not _is_detector(state):
        return resnet_rules("", "", REVERSE_COLOURS)
    body = r"backbone\.body\."
    convolutions = _TWO_CONVOLUTIONS if _is_v2(state) else ()
    return (*resnet_rules(body, body, REVERSE_COLOURS), *convolutions, *_DETECTOR, *_predictor_rules(state))


def _norm_eps(state: State) -> float:
    """Nothing is added in a detector with frozen normalisation, which counts no batches."""
    frozen = _is_detector(state) and not any(name.endswith("num_batches_tracked") for name in state)
    return 0.0 if frozen else FROZEN_BN_EPS


def _default_config(state: State) -> str:
    names = f"{'backbone.body.' if _is_detector(state) else ''}layer{{}}.{{}}.{{}}.weight"
    if not _is_faster_rcnn(state):
        return start_config(state, names)
    depth = backbone_name(state, names)
    if depth != "R50":
        raise ValueError(f"a Faster R-CNN of torchvision on {depth}, of which none comes with it")
    return f"COCO/FasterRCNN_R50_FPN{'_v2' if _is_v2(state) else ''}_torchvision.yaml"


def _settings(state: State, target: Target) -> dict[str, object]:
    settings = imagenet_colours(target) | {"MODEL.RESNETS.STRIDE_IN_1X1": False}
    if _is_faster_rcnn(state) and target.pyramid:
        settings |= {
            "MODEL.ANCHOR_GENERATOR.NAME": "TorchvisionAnchorGenerator",
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",  # not aligned: off by half a cell
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
            "INPUT.RESIZE_TRUNCATES": True,
        }
    return settings


SOURCE = Source(
    rules=_rules,
    default_config=_default_config,
    settings=_settings,
    # fc is the classifier of ImageNet, which a detector does not have
    computed=r".*num_batches_tracked|fc\.(weight|bias)",
    norm_eps=_norm_eps,
    partial=True,
)
