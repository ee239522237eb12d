"""The whole detector: backbone, proposals, heads.

Letters: B images, C channels, H W height and width.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.modeling.backbone import Backbone, build_backbone
from vod2._d2lite.modeling.proposal_generator import build_proposal_generator
from vod2._d2lite.modeling.roi_heads import build_roi_heads
from vod2._d2lite.structures import ImageList, Instances
from vod2._d2lite.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = (
    """Modules built with ``(cfg)``, called with ``list[dict]``: see `GeneralizedRCNN.forward`."""
)


def build_model(cfg) -> Any:
    """``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without the weights of ``cfg.MODEL.WEIGHTS``."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """New `Instances` with boxes scaled to an image of that size, clipped, and dropped where they become empty.

    Args:
        results: with "pred_boxes" or "proposal_boxes"; left unchanged.
    """
    height, width = results.image_size
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    if not results.has(name):
        raise ValueError("detector_postprocess needs the field pred_boxes or proposal_boxes")
    # `scale` changes the boxes in place, and `results` has to stay as it is
    boxes = results.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip((output_height, output_width))
    output = Instances((output_height, output_width), **{**results.get_fields(), name: boxes})
    return output[boxes.nonempty()]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """A detector of three parts: features of the image, proposals, detections from proposals.

    Args:
        proposal_generator: see `PROPOSAL_GENERATOR_REGISTRY`; None where the input holds the proposals.
        pixel_mean, pixel_std: one value per channel, in the order of the input image.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ):
        super().__init__()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"pixel_mean {pixel_mean} and pixel_std {pixel_std} differ in length")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        # Not in checkpoints, as in Detectron2: they come from the configuration
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg):
        if cfg.VIS_PERIOD:
            logging.getLogger(__name__).warning(f"VIS_PERIOD {cfg.VIS_PERIOD} is ignored: that needs Detectron2 itself")
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections in inference.

        Args:
            batched_inputs: for each image a dict with

                - image: (C, H, W), values in [0, 255];
                - instances: ground truth with "gt_boxes" (pixels of `image`) and "gt_classes"; in training;
                - height, width: size of the original image, to which detections are scaled; default: that of `image`;
                - proposals: with "proposal_boxes" and "objectness_logits"; without a proposal generator.

        Returns:
            In training the losses by name. In inference for each image a dict with "instances", that has "pred_boxes",
            "scores" and "pred_classes".
        """
        if not self.training:
            return self.inference(batched_inputs)
        if any("instances" not in item for item in batched_inputs):
            raise ValueError("training needs 'instances' in every input")
        gt_instances = [item["instances"].to(self.device) for item in batched_inputs]
        _, losses, _ = self._run(batched_inputs, gt_instances)
        return losses

    def inference(
        self, batched_inputs: list[dict], detected_instances: None = None, do_postprocess: bool = True
    ) -> list:
        """Detect; without `do_postprocess` the `Instances` are returned in pixels of the input image."""
        if self.training:
            raise RuntimeError("GeneralizedRCNN.inference: call eval() first")
        # Detectron2's argument, with which it predicts masks and keypoints of given boxes
        if detected_instances is not None:
            raise NotImplementedError("detected_instances: there is nothing to predict but boxes")
        results, _, image_sizes = self._run(batched_inputs, None)
        if not do_postprocess:
            return results
        outputs = []
        for instances, item, (height, width) in zip(results, batched_inputs, image_sizes, strict=True):
            scaled = detector_postprocess(instances, item.get("height", height), item.get("width", width))
            outputs.append({"instances": scaled})
        return outputs

    def _run(self, batched_inputs, gt_instances) -> tuple[list[Instances], dict[str, Tensor], list[tuple[int, int]]]:
        """Instances of the heads, all losses, sizes of the images."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if self.proposal_generator is None:
            proposals, proposal_losses = [item["proposals"].to(self.device) for item in batched_inputs], {}
        else:
            proposals, proposal_losses = self.proposal_generator(images, features, gt_instances)
        instances, losses = self.roi_heads(images, features, proposals, gt_instances)
        # In Detectron2's order, in which the trainer adds them up
        return instances, {**losses, **proposal_losses}, images.image_sizes

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize, pad and stack the images: (B, C, H, W)."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)
