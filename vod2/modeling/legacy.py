"""Conventions of older code, for weights that were trained with it (configs/published)."""

from dataclasses import dataclass

from torch import Tensor, nn

from vod2.d2 import CfgNode, FrozenBatchNorm2d, Instances, detector_postprocess
from vod2.layers import clip_boxes, half_open, inclusive
from vod2.structures import PreciseBoxes


@dataclass(frozen=True)
class LegacyConventions:
    """What MODEL.LEGACY says, and all that follows from it; by default today's conventions.

    A box that includes its last pixel, [x1, y1, x2, y2], is [x1, y1, x2 + 1, y2 + 1] (`half_open`) inside the detector,
    so that box coding, IoU, area and NMS are the usual ones. It is converted where boxes enter and leave: targets,
    clipping, pooling and detections.

    Attributes:
        inclusive_boxes: boxes of targets and detections include their last pixel.
        keep_ties: a frame keeps all detections with the score of the last one that fits.
        frozen_bn_eps: added to the variances in the backbone's frozen normalisation.
    """

    inclusive_boxes: bool = False
    keep_ties: bool = False
    frozen_bn_eps: float = 1e-5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LegacyConventions":
        node = cfg.MODEL.LEGACY
        return cls(node.INCLUSIVE_BOXES, node.KEEP_TIES, node.FROZEN_BN_EPS)

    def configure(self, backbone: nn.Module) -> None:
        """Give the backbone's frozen normalisation its epsilon."""
        # Frozen statistics divide by sqrt(variance + eps): with another eps than in training all maps are scaled.
        for module in backbone.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = self.frozen_bn_eps

    def training_input(self, clip: dict) -> dict:
        """A training clip, see `VideoDetector`, with the boxes of all its frames as the detector has them inside.

        `clip` stays as it is.
        """
        if not self.inclusive_boxes:
            return clip
        converted = dict(clip)
        # Supports may have objects, too, which proposals are matched to (`vod2.modeling.object_ids`).
        if "support" in clip:
            converted["support"] = [self.training_input(support) for support in clip["support"]]
        if "instances" in clip:
            fields = clip["instances"].get_fields()
            boxes = PreciseBoxes(half_open(fields["gt_boxes"].tensor))
            converted["instances"] = Instances(clip["instances"].image_size, **fields | {"gt_boxes": boxes})
        if "ignore_regions" in clip:
            converted["ignore_regions"] = half_open(clip["ignore_regions"])
        return converted

    def anchor_margin(self, pixels: float) -> float:
        """How far anchors that are trained may reach beyond the image; negative for any distance."""
        # Half-open anchors end a pixel later: half of it keeps those inside, of whole pixels, that were inside.
        return pixels + 0.5 if self.inclusive_boxes and pixels >= 0 else pixels

    def clip(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., 4) xyxy inside the detector, clipped to an image of `size` (height, width)."""
        return clip_boxes(boxes, size, self.inclusive_boxes)

    def pooled(self, boxes: Tensor) -> Tensor:
        """(N, 4) xyxy inside the detector -> what RoIAlign pools from."""
        return inclusive(boxes) if self.inclusive_boxes else boxes

    def detected(self, boxes: PreciseBoxes, pixel: tuple[float, float]) -> PreciseBoxes:
        """Boxes in pixels of the original image as they leave the detector.

        Args:
            boxes: of N detections, xyxy.
            pixel: (width, height) of a pixel of the resized image in pixels of the original one.
        """
        return PreciseBoxes(inclusive(boxes.tensor, pixel)) if self.inclusive_boxes else boxes

    def rescaled(self, instances: Instances, size: tuple[int, int]) -> Instances:
        """Detections in pixels of the resized image, as they are inside the detector, in those of one of `size`.

        Args:
            instances: with pred_boxes; `image_size` is that of the resized image.
            size: (height, width) of the original image.
        """
        height, width = instances.image_size
        scaled = detector_postprocess(instances, *size)
        # After scaling: inside the detector the box was made longer by a pixel of the resized image.
        pixel = scaled.image_size[1] / width, scaled.image_size[0] / height
        scaled.pred_boxes = self.detected(scaled.pred_boxes, pixel)
        return scaled


CURRENT_CONVENTIONS = LegacyConventions()
"""Those of Detectron2."""
