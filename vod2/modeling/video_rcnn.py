"""A two-stage detector that looks at other frames: Faster R-CNN, or R-FCN, for clips."""

from vod2.d2 import META_ARCH_REGISTRY
from vod2.errors import UserError
from vod2.modeling.deprecated_steps import DeprecatedSteps
from vod2.modeling.roi_heads import VideoROIHeads
from vod2.modeling.video_detector import VideoDetector
from vod2.modeling.video_rpn import VideoRPN


@META_ARCH_REGISTRY.register()
class VideoRCNN(DeprecatedSteps, VideoDetector):
    """`GeneralizedRCNN` for clips. It needs a `VideoRPN` and `VideoROIHeads`, and holds no state of a video.

    A clip is Detectron2's dict (image, height, width, in training instances) plus video_id, frame_index and
    support: [{image, frame_index, role}], in training perhaps ignore_regions (G, 4) xyxy in pixels of the image.
    Without aggregators it is the image detector with the same parameters.

    Example:
        >>> import torch
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> model = build_model(load_config("configs/quick/RDN.yaml")).eval()
        >>> frame = torch.zeros(3, 64, 96, dtype=torch.uint8)
        >>> clip = {"image": frame, "support": [{"image": frame, "frame_index": 1}]}
        >>> sorted(model([clip])[0]["instances"].get_fields())
        ['pred_boxes', 'pred_classes', 'proposal_index', 'scores']
    """

    proposal_generator: VideoRPN
    roi_heads: VideoROIHeads

    def require_parts(self) -> None:
        """It needs a `VideoRPN` and `VideoROIHeads`."""
        if not isinstance(self.proposal_generator, VideoRPN):
            raise UserError("VideoRCNN needs MODEL.PROPOSAL_GENERATOR.NAME 'VideoRPN'")
        if not isinstance(self.roi_heads, VideoROIHeads):
            raise UserError("VideoRCNN needs MODEL.ROI_HEADS.NAME 'VideoROIHeads', 'RFCNHeads' or 'TemporalROIHeads'")
