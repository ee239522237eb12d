"""FCOS for the frames of clips: those with ground truth are trained, the best boxes of all are taken.

B: frames, K: classes, R: cells of all levels, G: objects of a frame, N: boxes that are taken of a frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from vod2.d2 import PROPOSAL_GENERATOR_REGISTRY, CfgNode, Instances, ShapeSpec, configurable
from vod2.errors import UserError, settings
from vod2.modeling.box_source import BoxSource
from vod2.modeling.legacy import CURRENT_CONVENTIONS, LegacyConventions
from vod2.modeling.one_stage.head import Dense, FCOSHead, features_at
from vod2.modeling.one_stage.selection import BoxSelection
from vod2.modeling.one_stage.targets import (
    FCOSAssigner,
    Locations,
    boxes_at,
    centerness_of,
    distances_to,
    locations_of,
)
from vod2.structures import PreciseBoxes


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOS(BoxSource):
    """Fully convolutional one-stage detection (Tian et al., ICCV 2019), in the place of a proposal generator.

    Its boxes are those of the detections. Where something aggregates proposals, the few best of a frame are taken, with
    the features of both towers in their cells (YOLOV's feature selection); else all that may be detections.
    """

    @configurable
    def __init__(
        self,
        *,
        head: FCOSHead,
        in_features: Sequence[str],
        assigner: FCOSAssigner,
        selection: BoxSelection,
        aggregated: bool,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        ignore_overlap: float = 0.5,
        conventions: LegacyConventions = CURRENT_CONVENTIONS,
    ) -> None:
        """
        Args:
            head: of the levels `in_features`.
            in_features: the maps that it reads.
            assigner: which locations show which object.
            selection: which boxes are taken.
            aggregated: whether something aggregates the boxes: else nobody asks for any in training.
            focal_alpha, focal_gamma: of the focal loss of the classes.
            ignore_overlap: cells in ignore regions are background only where it is 0.
            conventions: of the boxes.
        """
        super().__init__()
        self.head = head
        self.in_features = list(in_features)
        self.assigner = assigner
        self.selection = selection
        self.aggregated = aggregated
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.ignore_overlap = ignore_overlap
        self.conventions = conventions
        self.min_box_size = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.FCOS
        shapes = _shapes_of(node.IN_FEATURES, input_shape)
        if len(node.SIZES) != len(shapes) - 1:
            raise UserError(
                f"MODEL.FCOS.SIZES has {len(node.SIZES)} numbers, for {len(shapes)} levels in MODEL.FCOS.IN_FEATURES: "
                "expected one less than levels, each the largest distance that the level is for"
            )
        strides = [int(shape.stride or 0) for shape in shapes]
        if strides != sorted(set(strides)):
            raise UserError(
                f"MODEL.FCOS.IN_FEATURES is {list(node.IN_FEATURES)}, maps of the strides {strides}: expected "
                "ascending ones, as MODEL.FCOS.SIZES belong to them in that order"
            )
        if not 0 <= node.FOCAL_ALPHA <= 1 or node.FOCAL_GAMMA < 0:
            raise UserError(
                "MODEL.FCOS: expected FOCAL_ALPHA in [0, 1] and FOCAL_GAMMA of at least 0, got "
                f"{node.FOCAL_ALPHA}, {node.FOCAL_GAMMA}"
            )
        with settings("MODEL.FCOS"):
            head = FCOSHead(
                int(shapes[0].channels or 0),
                strides,
                cfg.MODEL.ROI_HEADS.NUM_CLASSES,
                node.NUM_CONVS,
                node.NORM,
                node.PRIOR,
            )
            assigner = FCOSAssigner(node.SIZES, node.CENTER_RADIUS)
        return {
            "head": head,
            "in_features": node.IN_FEATURES,
            "assigner": assigner,
            "selection": BoxSelection.from_config(cfg),
            "aggregated": bool(cfg.MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME),
            "focal_alpha": node.FOCAL_ALPHA,
            "focal_gamma": node.FOCAL_GAMMA,
            "ignore_overlap": cfg.MODEL.VIDEO.IGNORE_OVERLAP,
            "conventions": LegacyConventions.from_config(cfg),
        }

    @classmethod
    def maps_read(cls, cfg: CfgNode) -> dict[str, str]:
        return dict.fromkeys(cfg.MODEL.FCOS.IN_FEATURES, "MODEL.FCOS.IN_FEATURES")

    def propose(
        self,
        image_sizes: list[tuple[int, int]],
        features: dict[str, Tensor],
        targets: Sequence[Instances | None] | None = None,
        ignored: Sequence[Tensor | None] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `BoxSource`; nothing is drawn at random.

        Returns:
            B `Instances` with proposal_boxes, objectness_logits (descending), scores (N, K) in [0, 1] and, where
            something aggregates them, tower_features (N, 2 C); losses loss_fcos_cls, loss_fcos_box and
            loss_fcos_centerness.
        """
        maps = [features[name] for name in self.in_features]
        dense = self.head(maps)
        sizes = [(value.shape[2], value.shape[3]) for value in maps]
        locations = locations_of(sizes, self.head.strides, dense.distances.dtype, dense.distances.device)
        # Supports go through the head with the key frames, but only frames with targets enter the losses.
        losses: dict[str, Tensor] = {}
        trained = {row: target for row, target in enumerate(targets or []) if target is not None}
        if trained:
            regions = [None if ignored is None else ignored[row] for row in trained]
            losses = self.losses(locations, dense, trained, regions)
        return [self._boxes_of(locations, dense, row, size) for row, size in enumerate(image_sizes)], losses

    def losses(
        self, locations: Locations, dense: Dense, trained: dict[int, Instances], ignored: Sequence[Tensor | None]
    ) -> dict[str, Tensor]:
        """Equation 2 and the loss of the centerness, each divided by the number of locations that show an object.

        Args:
            trained: {row of the frame in `dense`: its ground truth}.
            ignored: the ignore regions (G, 4) of each of these frames, or None.
        """
        class_losses, box_losses, center_losses, count = [], [], [], 0
        for (row, target), regions in zip(trained.items(), ignored, strict=True):
            boxes = target.gt_boxes.tensor
            rows, objects = self.assigner(locations, boxes)
            logits = dense.logits[row]
            wanted = torch.zeros_like(logits)
            wanted[rows, target.gt_classes[objects]] = 1
            of_classes = sigmoid_focal_loss(logits, wanted, self.focal_alpha, self.focal_gamma).sum(dim=1)
            class_losses.append(of_classes[self._judged(locations, rows, regions)].sum())
            points, matched = locations.points[rows], boxes[objects].to(locations.points)
            predicted = boxes_at(points, dense.distances[row, rows])
            box_losses.append(generalized_box_iou_loss(predicted, matched, reduction="sum"))
            centers = centerness_of(distances_to(points, matched))
            found = dense.centerness[row, rows]
            center_losses.append(functional.binary_cross_entropy_with_logits(found, centers, reduction="sum"))
            count += len(rows)
        return {
            "loss_fcos_cls": torch.stack(class_losses).sum() / max(count, 1),
            "loss_fcos_box": torch.stack(box_losses).sum() / max(count, 1),
            "loss_fcos_centerness": torch.stack(center_losses).sum() / max(count, 1),
        }

    def _judged(self, locations: Locations, objects: Tensor, regions: Tensor | None) -> Tensor:
        """(R,) bool: the locations whose class is trained, all but background in ignore regions."""
        judged = torch.ones_like(locations.level, dtype=torch.bool)
        if regions is None or len(regions) == 0 or self.ignore_overlap == 0:
            return judged
        inside = distances_to(locations.points[:, None], regions.to(locations.points)).amin(dim=2) > 0  # (R, G)
        judged[inside.any(dim=1)] = False
        judged[objects] = True
        return judged

    def _boxes_of(self, locations: Locations, dense: Dense, row: int, size: tuple[int, int]) -> Instances:
        """The boxes that are taken of one frame, the best first."""
        with torch.no_grad():
            boxes = self.conventions.clip(boxes_at(locations.points, dense.distances[row]), size)
            # The square root of the product: as the later version of the paper, it changes no order within a class.
            scores = (dense.logits[row].sigmoid() * dense.centerness[row].sigmoid()[:, None]).sqrt()
            best = scores.amax(dim=1)
            usable = torch.isfinite(boxes).all(dim=1) & torch.isfinite(best)
            usable &= ((boxes[:, 2:] - boxes[:, :2]) > self.min_box_size).all(dim=1)
            if self.training and not self.aggregated:
                usable = torch.zeros_like(usable)
            rows = self.selection(boxes, best, locations.level, usable)
        taken = Instances(
            size,
            proposal_boxes=PreciseBoxes(boxes[rows]),
            objectness_logits=torch.logit(best[rows], eps=torch.finfo(best.dtype).eps),
            scores=scores[rows],
        )
        if self.aggregated:
            of_towers = [features_at([level[row] for level in tower], rows) for tower in dense.towers]
            taken.tower_features = torch.cat(of_towers, dim=1)
        return taken


def _shapes_of(names: Sequence[str], shapes: dict[str, ShapeSpec]) -> list[ShapeSpec]:
    """The shapes of the maps `names`, of which all have as many channels."""
    missing = [name for name in names if name not in shapes]
    if missing or not names:
        raise UserError(
            f"MODEL.FCOS.IN_FEATURES is {list(names)}: expected some of {', '.join(shapes)}, which the backbone gives"
        )
    chosen = [shapes[name] for name in names]
    if len({shape.channels for shape in chosen}) > 1:
        raise UserError(
            f"MODEL.FCOS.IN_FEATURES is {list(names)}, maps of {[shape.channels for shape in chosen]} channels: the "
            "head, which they share, needs equal ones, as a pyramid gives them (MODEL.BACKBONE.NAME "
            "'build_pyramid_backbone')"
        )
    return chosen
