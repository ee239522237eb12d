"""A one-stage detector that looks at other frames: FCOS, and its best boxes scored anew."""

from vod2.d2 import META_ARCH_REGISTRY
from vod2.errors import UserError
from vod2.modeling.one_stage.fcos import FCOS
from vod2.modeling.one_stage.rescoring import RescoringHeads
from vod2.modeling.pixel import keeps_boxes
from vod2.modeling.video_detector import VideoDetector


@META_ARCH_REGISTRY.register()
class VideoOneStage(VideoDetector):
    """`FCOS` for clips, whose boxes `RescoringHeads` score anew where level 2 aggregates their features (YOLOV).

    Clips, streams and the three levels are those of `VideoDetector`. Without aggregators it is FCOS.

    Example:
        >>> import torch
        >>> from vod2.d2 import build_model
        >>> from vod2.engine import load_config
        >>> model = build_model(load_config("configs/quick/YOLOV_FCOS.yaml", ["MODEL.WEIGHTS", ""])).eval()
        >>> frame = torch.zeros(3, 64, 96, dtype=torch.uint8)
        >>> clip = {"image": frame, "support": [{"image": frame, "frame_index": 1}]}
        >>> sorted(model([clip])[0]["instances"].get_fields())
        ['pred_boxes', 'pred_classes', 'proposal_index', 'scores']
    """

    proposal_generator: FCOS
    roi_heads: RescoringHeads

    def require_parts(self) -> None:
        """It needs `FCOS` and `RescoringHeads`, and a level 1 that changes what `FCOS` reads."""
        if not isinstance(self.proposal_generator, FCOS):
            raise UserError("VideoOneStage needs MODEL.PROPOSAL_GENERATOR.NAME 'FCOS'")
        if not isinstance(self.roi_heads, RescoringHeads):
            raise UserError("VideoOneStage needs MODEL.ROI_HEADS.NAME 'RescoringHeads'")
        levels, pixel = self.proposal_generator.in_features, self.pixel_aggregator
        if pixel is not None and keeps_boxes(self.backbone, pixel, levels):
            raise UserError(
                f"MODEL.FCOS.IN_FEATURES is {levels}, none of which {type(pixel).__name__} changes: let it name "
                f"{pixel.stage!r}, or a map that the backbone makes after it"
            )
