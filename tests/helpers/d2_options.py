"""Configurations of small Faster R-CNNs of Detectron2, as {dotted key: value}."""

STANDARD_HEAD = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
STAGES = ["res2", "res3", "res4", "res5"]
FPN = {
    **STANDARD_HEAD,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": STAGES,
    "MODEL.FPN.IN_FEATURES": STAGES,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
DC5 = {
    **STANDARD_HEAD,
    "MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_STD": [57.0, 57.0, 57.0],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
}
"""A quarter of a quarter of a ResNet-50, which keeps every box."""
