"""The whole detector: backbone, proposals, heads.

Letters: B images, C channels, H W height and width.
"""

import torch
from torch import Tensor, nn

from vod2._d2lite.config import configurable
from vod2._d2lite.modeling.backbone import Backbone, build_backbone
from vod2._d2lite.modeling.postprocessing import detector_postprocess
from vod2._d2lite.modeling.proposal_generator import build_proposal_generator
from vod2._d2lite.modeling.roi_heads import build_roi_heads
from vod2._d2lite.structures import ImageList, Instances
from vod2._d2lite.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = (
    """Modules built with ``(cfg)`` and called with ``list[dict]``: see `GeneralizedRCNN.forward`."""
)


def build_model(cfg) -> nn.Module:
    """``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, without the weights of ``cfg.MODEL.WEIGHTS``."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """A detector of three parts: features of the image, proposals, detections from proposals.

    Args:
        backbone: see `Backbone`.
        proposal_generator: see `PROPOSAL_GENERATOR_REGISTRY`; None where the input holds the proposals.
        roi_heads: see `ROI_HEADS_REGISTRY`.
        pixel_mean, pixel_std: one value per channel.
        input_format: order of the channels, such as "BGR".
        vis_period: kept for compatibility; nothing is drawn.
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
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        super().__init__()
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"pixel_mean {pixel_mean} and pixel_std {pixel_std} differ in length")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections in inference.

        Args:
            batched_inputs: for each image a dict with

                - image: (C, H, W), values in [0, 255], in the order of `input_format`;
                - instances: ground truth with "gt_boxes" (pixels of `image`) and "gt_classes"; in training;
                - height, width: size of the original image, to which detections are scaled; default: that of `image`;
                - proposals: with "proposal_boxes" and "objectness_logits"; without a proposal generator.

        Returns:
            In training the losses by name. In inference for each image a dict with "instances", that has "pred_boxes",
            "scores" and "pred_classes".
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        if any("instances" not in item for item in batched_inputs):
            raise ValueError("training needs 'instances' in every input")
        gt_instances = [item["instances"].to(self.device) for item in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """Detect.

        Args:
            detected_instances: not supported, as nothing but boxes is predicted.
            do_postprocess: scale to the original image; otherwise the `Instances` are returned as they are.
        """
        if self.training:
            raise RuntimeError("GeneralizedRCNN.inference: call eval() first")
        if detected_instances is not None:
            raise NotImplementedError("detected_instances: there is nothing to predict but boxes")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self._propose(batched_inputs, images, features, None)
        results, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return results
        outputs = []
        for instances, item, (height, width) in zip(results, batched_inputs, images.image_sizes, strict=True):
            scaled = detector_postprocess(instances, item.get("height", height), item.get("width", width))
            outputs.append({"instances": scaled})
        return outputs

    def _propose(self, batched_inputs, images, features, gt_instances) -> tuple[list[Instances], dict[str, Tensor]]:
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, gt_instances)
        return [item["proposals"].to(self.device) for item in batched_inputs], {}

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize, pad and stack the images: (B, C, H, W)."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
