"""The configuration keys that vod2 adds to Detectron2's.

The comment beside a key, at the end of its line or in the lines above it, is what docs/config.md says of it;
`read_when` below a group says in which configurations its keys are read.
"""

from vod2.d2 import CfgNode
from vod2.keys import EXTENSIONS, FILLED, NAMED, NONZERO, read_when, register_config

__all__ = ["FILLED", "NAMED", "NONZERO", "add_video_config", "read_when", "register_config"]


def add_video_config(cfg: CfgNode) -> CfgNode:
    """Add every key of vod2 and of the projects to `cfg` (in place) and return it.

    Example:
        >>> from vod2 import add_video_config
        >>> from vod2.d2 import get_cfg
        >>> add_video_config(get_cfg()).VIDEO.TEST_SCHEDULE.NAME
        'NoWindow'
    """
    for add_keys in EXTENSIONS:
        add_keys(cfg)
    return cfg


@register_config
def _add_time(cfg: CfgNode) -> None:
    cfg.VIDEO = CfgNode()
    # The supports of a training clip. A key that the schedule does not read must keep its default.
    train = cfg.VIDEO.TRAIN_SCHEDULE = CfgNode()
    train.NAME = "NoSupport"  # the schedule, in TRAINING_SCHEDULE_REGISTRY
    train.RADIUS = 18  # frames on either side of the key frame from which (LOCAL) supports are drawn
    train.COUNT = 2  # supports to draw; of LocalMemoryGlobal the LOCAL ones; of RandomBothSides an even number
    train.MEMORY_COUNT = 3  # MEMORY supports to draw, from before the local window
    train.GLOBAL_COUNT = 2  # GLOBAL supports to draw, from the whole video
    # RandomVideo: whether the key frame may be drawn; LocalMemoryGlobal: whether it is one more LOCAL support
    train.INCLUDE_KEY = True
    # Whether the key frame, with its sampled RoIs, is a support of itself (role KEY) before those of any schedule
    train.WITH_KEY = False
    train.INTERVAL = 10  # distance of two keyframes, in frames
    train.TRIPLET = "stream"  # how the two keyframes are drawn: "stream", or public code's "online" or "released"
    # The window of a frame in inference. A key that no schedule of NAME reads must keep its default.
    test = cfg.VIDEO.TEST_SCHEDULE = CfgNode()
    test.NAME = "NoWindow"  # the schedule, in SUPPORT_SCHEDULE_REGISTRY; "A+B" is the union of A and B
    test.RADIUS = 18  # frames of the window before the key frame
    # Frames of a sliding window after the key frame, -1 for as many as RADIUS; 0 makes samples of the video causal, too
    test.LOOKAHEAD = -1
    test.EDGE = "clip"  # the window at the ends of a video: "clip", or "repeat" the edge frame
    test.COUNT = 21  # frames to sample from the video; of GlobalSample with, of RollingGlobal beside the key frame
    test.INCLUDE_KEY = True  # whether the key frame is always one of COUNT; False: only where it is drawn
    test.INTERVAL = 10  # distance of two keyframes, in frames


@register_config
def _add_levels(cfg: CfgNode) -> None:
    # The video detector's layers, level by level
    video = cfg.MODEL.VIDEO = CfgNode()
    video.SUPPORT_TOPK = 75  # proposals kept of a support frame, those of the highest objectness
    video.PIXEL_AGGREGATOR = CfgNode()  # Level 1, over feature maps
    video.PIXEL_AGGREGATOR.NAME = ""  # what enhances feature maps, in PIXEL_AGGREGATOR_REGISTRY; "" for none
    video.PROPOSAL_AGGREGATOR = CfgNode()  # Level 2, over proposals
    # What enhances proposals, in PROPOSAL_AGGREGATOR_REGISTRY; "A+B" is B on what A makes of the key frame's proposals;
    # "" for none
    video.PROPOSAL_AGGREGATOR.NAME = ""
    # Whether detections tell their relation to the boxes of the next frame, for the linker BLR; an evaluation writes
    # them to a file
    video.KEEP_RELATIONS = False
    video.OHEM = 0  # RoIs of a key frame that its loss is taken of, those of the highest loss; 0 for all
    # Training: anchors and RoIs of the background with more than this share, in [0, 1], of their area in an ignore
    # region or a crowd are not sampled; 0 for Detectron2's rule, by which they are background like any other. FCOS,
    # whose locations have no area, leaves out those inside of a region, with any number but 0
    video.IGNORE_OVERLAP = 0.5
    video.REDUCE_CHANNELS = 0  # channels of a 1x1 convolution and ReLU before pooling (SELSA: 256); 0 for none
    linker = video.LINKER = CfgNode()  # Level 3, over the detections of a whole video
    # The linker, in BOX_LINKER_REGISTRY: "SeqNMS", "TubeletLinking", "BLR" or "GreedyLinking"; "" for none
    linker.NAME = ""
    linker.LINK_IOU = 0.5  # least IoU, in (0, 1], of boxes of consecutive frames that are linked
    linker.SUPPRESS_IOU = 0.3  # least IoU, in (0, 1], with a linked box of the same frame that suppresses a box
    linker.LINK_SIMILARITY = 0.4  # least similarity, in (0, 1], of boxes of consecutive frames that are linked
    linker.RESCORE = "mean"  # what the boxes of a path get as score: the "mean" or the "max" of its scores
    linker.TOP_SHARE = 0.5  # share of a path's scores, in (0, 1], the best ones, whose mean is added to all of them
    relation = video.RELATION = CfgNode()  # Relation modules of proposals (RDN, section 4)
    relation.NUM_HEADS = 16  # relation features M of a module
    relation.GEOMETRY_DIM = 64  # length of the sine and cosine embedding of a pair of boxes
    relation.GEOMETRY_SCALE = 100.0  # factor of the geometry of a pair of boxes before it is embedded
    relation.GEOMETRY_WAVELENGTH = 1000.0  # longest wavelength of the embedding


@register_config
def _add_freezing(cfg: CfgNode) -> None:
    # What does not learn, beside MODEL.BACKBONE.FREEZE_AT: "detector" for all but the aggregators, "" for nothing
    cfg.MODEL.FREEZE = ""


_VIDEO_DETECTORS = {"MODEL.META_ARCHITECTURE": ("VideoRCNN", "VideoOneStage")}
_POOLING_HEADS = {"MODEL.ROI_HEADS.NAME": ("VideoROIHeads", "RFCNHeads")}
_VIDEO_HEADS = {"MODEL.ROI_HEADS.NAME": ("VideoROIHeads", "RFCNHeads", "RescoringHeads")}
read_when(_VIDEO_DETECTORS, "MODEL.FREEZE", "MODEL.VIDEO.PIXEL_AGGREGATOR")
read_when(_VIDEO_HEADS, "MODEL.VIDEO.PROPOSAL_AGGREGATOR", "MODEL.VIDEO.IGNORE_OVERLAP")
read_when(_POOLING_HEADS, "MODEL.VIDEO.OHEM")
read_when({"MODEL.PROPOSAL_GENERATOR.NAME": ("VideoRPN", "FCOS")}, "MODEL.VIDEO.IGNORE_OVERLAP")
read_when({"MODEL.ROI_HEADS.NAME": "VideoROIHeads"}, "MODEL.VIDEO.REDUCE_CHANNELS")
# Without level 2 supports get no proposals
read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": NAMED}, "MODEL.VIDEO.SUPPORT_TOPK", "MODEL.VIDEO.KEEP_RELATIONS")
read_when({"MODEL.VIDEO.LINKER.NAME": NAMED}, "MODEL.VIDEO.LINKER")  # which keys a linker reads, it declares itself


@register_config
def _add_alignment(cfg: CfgNode) -> None:
    # How one frame's feature map is aligned to another's, for level 1
    aligner = cfg.MODEL.ALIGNER = CfgNode()
    aligner.NAME = ""  # the aligner, in ALIGNER_REGISTRY; "" for none, where a method has one
    aligner.WIDTH = 128  # channels that DAlign works in
    aligner.RESIDUAL = False  # whether the aligned map is added to the support's, rather than replacing it
    aligner.MODULATED = True  # whether the taps of the deformable layers have masks beside their offsets
    aligner.EMBEDDING_DIM = 256  # channels of the embeddings that are compared
    aligner.EQUAL_START = True  # whether the embeddings f and g of a pair of maps begin with equal weights
    aligner.NUM_LOCATIONS = 40  # places around a cell that it looks at; of INIT "uniform" the square of an odd number
    aligner.INIT = "gaussian"  # how the locations begin, "gaussian" or "uniform" (a square window)
    aligner.INIT_STD = 1.0  # standard deviation of the "gaussian" locations, in cells
    aligner.LEARNED = True  # whether the locations change in training
    # How the weights of the places are normalised: "softmax", or "linear" for LSTS's equation 3 as printed
    aligner.NORMALISER = "softmax"
    aligner.LR_MULTIPLIER = 10.0  # factor on the learning rate of the locations
    # Optical flow, for level 1 that warps feature maps along it
    flow = cfg.MODEL.FLOWNET = CfgNode()
    flow.WIDTH = 1.0  # factor of the inner channels of FlowNetS
    # File that the flow network of a new training begins with, from convert_checkpoint.py --from flownets; "" for a
    # flow of 0
    flow.WEIGHTS = ""
    flow.LEGACY_WARP = False  # whether maps are warped as the public code of DFF and FGFA does it, for its weights


read_when({"MODEL.ALIGNER.NAME": "DAlign"}, *(f"MODEL.ALIGNER.{key}" for key in ("WIDTH", "RESIDUAL", "MODULATED")))
read_when(
    {"MODEL.ALIGNER.NAME": ("LearnedSampling", "MatchTrans", "NonLocal")},
    "MODEL.ALIGNER.EMBEDDING_DIM",
    "MODEL.ALIGNER.EQUAL_START",
)
read_when({"MODEL.ALIGNER.NAME": ("LearnedSampling", "MatchTrans")}, "MODEL.ALIGNER.NORMALISER")
read_when(
    {"MODEL.ALIGNER.NAME": "LearnedSampling"},
    *(f"MODEL.ALIGNER.{key}" for key in ("NUM_LOCATIONS", "INIT", "LEARNED")),
)
read_when({"MODEL.ALIGNER.NAME": "LearnedSampling", "MODEL.ALIGNER.INIT": "gaussian"}, "MODEL.ALIGNER.INIT_STD")
read_when({"MODEL.ALIGNER.NAME": "LearnedSampling", "MODEL.ALIGNER.LEARNED": True}, "MODEL.ALIGNER.LR_MULTIPLIER")
read_when({"MODEL.ALIGNER.NAME": "FlowNetS"}, "MODEL.FLOWNET")


@register_config
def _add_older_conventions(cfg: CfgNode) -> None:
    # Conventions of older code, for weights that were trained with it
    legacy = cfg.MODEL.LEGACY = CfgNode()
    # Whether boxes include their last pixel (width x2 - x1 + 1), in targets and in detections
    legacy.INCLUSIVE_BOXES = False
    # Whether detections with the score of the last of TEST.DETECTIONS_PER_IMAGE are kept beyond that number
    legacy.KEEP_TIES = False
    # What is added to the variances in the backbone's frozen normalisation; 1e-20 is as good as nothing
    legacy.FROZEN_BN_EPS = 1e-5


read_when(_VIDEO_DETECTORS, "MODEL.LEGACY")
read_when({"MODEL.RESNETS.NORM": "FrozenBN"}, "MODEL.LEGACY.FROZEN_BN_EPS")


@register_config
def _add_backbones(cfg: CfgNode) -> None:
    # A ResNet whose res5 ends in a map for the RPN and one for the heads (R-FCN)
    head_map = cfg.MODEL.HEAD_MAP = CfgNode()
    head_map.BOTTOM_UP = "build_resnet_backbone"  # the ResNet, in BACKBONE_REGISTRY
    head_map.CHANNELS = 1024  # channels of both maps together
    head_map.DILATION = 6  # dilation, in cells, of the 3x3 convolution that makes them
    # A ResNet of basic blocks that a CPU can train
    narrow = cfg.MODEL.NARROW_RESNET = CfgNode()
    narrow.STEM_CHANNELS = 16  # channels of the stem
    narrow.CHANNELS = [16, 32, 64, 96]  # channels of res2 .. res5
    narrow.BLOCKS = [1, 1, 1, 1]  # blocks of res2 .. res5
    # Strides of res2 .. res5, after the stem's 4; [1, 2, 1, 1] for objects of some ten pixels; [1, 2, 2, 2] below a
    # feature pyramid
    narrow.STRIDES = [1, 2, 2, 1]

    # A feature pyramid (MODEL.FPN) on any backbone
    pyramid = cfg.MODEL.PYRAMID = CfgNode()
    pyramid.BOTTOM_UP = "build_resnet_backbone"  # the backbone below it, in BACKBONE_REGISTRY
    pyramid.TOP_LEVELS = 2  # further levels, each a convolution with stride 2 of the one below


read_when({"MODEL.BACKBONE.NAME": "build_head_map_backbone"}, "MODEL.HEAD_MAP")
read_when({"MODEL.BACKBONE.NAME": "build_pyramid_backbone"}, "MODEL.PYRAMID")
for _key in ("MODEL.BACKBONE.NAME", "MODEL.HEAD_MAP.BOTTOM_UP", "MODEL.PYRAMID.BOTTOM_UP"):
    read_when({_key: "build_narrow_resnet_backbone"}, "MODEL.NARROW_RESNET")
read_when({"MODEL.BACKBONE.NAME": "build_narrow_resnet_fpn_backbone"}, "MODEL.NARROW_RESNET")


@register_config
def _add_one_stage(cfg: CfgNode) -> None:
    # The dense head of a one-stage detector (Tian et al., ICCV 2019)
    fcos = cfg.MODEL.FCOS = CfgNode()
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # the maps that it reads, all of as many channels
    # The largest distance of a location to a side of its box, in pixels, from which on an object belongs to the next
    # level: one number less than there are levels
    fcos.SIZES = [64, 128, 256, 512]
    # A location shows an object within so many strides of its centre (centre sampling); 0 for its whole box
    fcos.CENTER_RADIUS = 1.5
    fcos.NUM_CONVS = 4  # convolutions of each of the two towers
    fcos.NORM = "GN"  # normalisation of the towers; "" for none
    fcos.PRIOR = 0.01  # score of every class in every cell before training, between 0 and 1
    fcos.FOCAL_ALPHA = 0.25  # weight of the objects in the focal loss, in [0, 1]
    fcos.FOCAL_GAMMA = 2.0  # exponent of the focal loss
    fcos.PRE_NMS_TOPK = 1000  # boxes of each level that go into NMS, those of the highest score
    # Which of its boxes are scored anew with other frames, and how (Shi et al., AAAI 2023)
    rescoring = cfg.MODEL.RESCORING = CfgNode()
    rescoring.TOPK = 30  # boxes of a frame, a in the paper, in training and in inference
    rescoring.NMS_THRESH = 0.75  # IoU with a better box, of whatever class, over which a box is not taken
    rescoring.MATCH_IOU = 0.5  # least IoU of a box with the object that it is trained to show


read_when({"MODEL.PROPOSAL_GENERATOR.NAME": "FCOS"}, "MODEL.FCOS")
read_when({"MODEL.ROI_HEADS.NAME": "RescoringHeads", "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": NAMED}, "MODEL.RESCORING")


@register_config
def _add_timm(cfg: CfgNode) -> None:
    # A model of timm as backbone (docs/backbones.md)
    timm = cfg.MODEL.TIMM = CfgNode()
    # The model, as timm.list_models() has it, with or without a tag of weights ("swin_tiny_patch4_window7_224.ms_in1k")
    timm.NAME = "convnext_tiny"
    # Whether a new training begins with the weights that timm downloads; not where MODEL.WEIGHTS is set
    timm.PRETRAINED = False
    # File of timm's weights that a new training begins with instead; not where MODEL.WEIGHTS is set; "" for none
    timm.WEIGHTS = ""
    timm.OUT_FEATURES = ["res4", "res5"]  # maps of the backbone, res2 of stride 4 to res5 of stride 32
    # Stride from which on maps keep their size, and are dilated instead: 32, or 16 for a res5 of stride 16; Swin takes
    # 32 alone
    timm.OUTPUT_STRIDE = 32
    # Probability, in [0, 1), that the last block is left out in training; those before it are less often
    timm.DROP_PATH = 0.0
    # Whether normalisation over batches keeps the statistics and weights that it has; LayerNorm always learns
    timm.FREEZE_NORM = True
    timm.OPTIONS = ()  # further arguments of the model, pairs of name and value: [["embed_dim", 96]]


_TIMM_PYRAMIDS = ("build_timm_fpn_backbone", "build_timm_vit_pyramid_backbone")
for _key in ("MODEL.BACKBONE.NAME", "MODEL.HEAD_MAP.BOTTOM_UP", "MODEL.PYRAMID.BOTTOM_UP"):
    read_when(
        {_key: "build_timm_backbone"},
        "MODEL.TIMM",
        "MODEL.TIMM.OUT_FEATURES",
        "MODEL.TIMM.OUTPUT_STRIDE",
        "MODEL.TIMM.FREEZE_NORM",
    )
read_when({"MODEL.BACKBONE.NAME": _TIMM_PYRAMIDS}, "MODEL.TIMM")
read_when({"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone"}, "MODEL.TIMM.OUTPUT_STRIDE", "MODEL.TIMM.FREEZE_NORM")


@register_config
def _add_data(cfg: CfgNode) -> None:
    # Least number of still images that a class keeps: an image goes if each of its classes has so many without it; 0
    # for all images
    cfg.DATASETS.MAX_IMAGES_PER_CLASS = 0
    # One positive number for each of DATASETS.TRAIN, its share of the samples (they need not add up to 1); () for as
    # many samples of each as it has
    cfg.DATASETS.TRAIN_PROPORTIONS = ()
    # For a frame that cannot be read: "error", or "skip" for the nearest of its video
    cfg.DATASETS.ON_BAD_FRAME = "error"
    cfg.DATASETS.MAX_BAD_FRAMES = 100  # bad files after which a process stops; each worker process counts its own
    # Batches of triplets of videos (HVR-Net): NUM_CLASSES x NUM_VIDEOS clips for each process, a clip of 1 +
    # VIDEO.TRAIN_SCHEDULE.COUNT frames: 3 by default, the key frame in the middle with RandomBothSides
    triplet = cfg.DATALOADER.TRIPLET = CfgNode()
    triplet.NUM_CLASSES = 3  # classes of a batch
    triplet.NUM_VIDEOS = 3  # videos of each class of a batch


read_when({"DATASETS.ON_BAD_FRAME": "skip"}, "DATASETS.MAX_BAD_FRAMES")
read_when({"DATALOADER.SAMPLER_TRAIN": "TripletVideos"}, "DATALOADER.TRIPLET")


@register_config
def _add_augmentation(cfg: CfgNode) -> None:
    # Whether the longer side of a resized image is cut to whole pixels, as in older code, rather than rounded
    cfg.INPUT.RESIZE_TRUNCATES = False
    # Augmentation of training clips before resizing and flipping: "SSD" for colours, expanding and cropping; "" for
    # none
    cfg.INPUT.VIDEO_AUGMENTATION = ""
    ssd = cfg.INPUT.SSD = CfgNode()  # The augmentation of SSD, drawn once for a clip
    ssd.BRIGHTNESS = 32.0  # most that is added to or taken from a value in [0, 255]
    ssd.CONTRAST = (0.5, 1.5)  # least and greatest factor of the contrast
    ssd.SATURATION = (0.5, 1.5)  # least and greatest factor of the saturation
    ssd.HUE = 18.0  # most that the hue turns to either side, in degrees
    ssd.PHOTOMETRIC_PROB = 0.5  # probability of each of these four, and of a shuffle of the channels
    ssd.EXPAND = (1.0, 2.0)  # least and greatest ratio of the canvas, filled with MODEL.PIXEL_MEAN, to the frame
    ssd.EXPAND_PROB = 0.5  # probability of expanding
    # Least IoU of a crop with every box of the key frame; no crop and a free one are as likely as each of these
    ssd.CROP_MIN_IOU = (0.1, 0.3, 0.5, 0.7, 0.9)


read_when({"INPUT.VIDEO_AUGMENTATION": "SSD"}, "INPUT.SSD")


@register_config
def _add_engine(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "SGD"  # the optimizer, "SGD" or "AdamW"
    # Parts k that a device cuts its share of IMS_PER_BATCH into, adding their gradients: n devices make the update of
    # n k devices
    cfg.SOLVER.ACCUMULATE = 1
    # Updates in a row that may be left out because a loss or a gradient is not finite; one more ends the training
    cfg.SOLVER.MAX_BAD_STEPS = 10
    cfg.SOLVER.CHECKPOINT_KEEP = 0  # periodic checkpoints that are kept, the latest; 0 for all
    # Metric of an evaluation during the training, such as "vid/AP50", whose best weights are kept as
    # model_best.safetensors; "" for none
    cfg.SOLVER.CHECKPOINT_BEST = ""
    cfg.TEST.VID_PROTOCOL = "imagenet"  # rule of matching boxes: "imagenet", "fixed", "fgfa" or "mega"
    # What of a kind of deterioration is evaluated: the "frames" that have it, with all objects and detections of those,
    # or the "objects" that have it, with the detections of all frames
    cfg.TEST.VID_GROUPS = "frames"
    cfg.TEST.FRAME_KINDS = ""  # JSON file of deteriorated frames (docs/evaluation.md); "" for that of the metadata
    # What a frame looks at: frames of its "own" video, "none", or "foreign" ones, of another video (docs/ablations.md)
    cfg.TEST.CONTEXT = "own"
    # Most MiB of encoded frames of a video that are kept for a later window, where a schedule looks at the whole video
    # (MEGA's global frames): a frame that does not fit is encoded again; 0 for none
    cfg.TEST.FRAME_STORE_MB = 512
    # What the heavy layers compute in, in an evaluation and in streams: "float32", or, by autocast, "bfloat16" or
    # "float16"
    cfg.TEST.PRECISION = "float32"
    # An error before the evaluation, in place of a warning after it, where HOTA, IDF1 and MOTA cannot be computed: they
    # need MODEL.VIDEO.LINKER.NAME and the extra "mot"
    cfg.TEST.REQUIRE_HOTA = False
    cfg.TEST.COCO_AP = True  # whether COCO's AP is evaluated, too, by hotcoco (extra "coco") or else pycocotools


read_when({"SOLVER.OPTIMIZER": "SGD"}, "SOLVER.MOMENTUM", "SOLVER.NESTEROV")


@register_config
def _add_tracking(cfg: CfgNode) -> None:
    # A training as a run of an experiment tracker, beside metrics.json and TensorBoard (docs/tracking.md)
    tracking = cfg.TRACKING = CfgNode()
    tracking.WRITERS = ()  # trackers: "wandb" (Weights & Biases), "mlflow", both, or () for none
    tracking.PROJECT = "vod2"  # project of W&B, experiment of MLflow
    tracking.NAME = ""  # name of the run; "" for the name of OUTPUT_DIR


read_when({"TRACKING.WRITERS": FILLED}, "TRACKING.PROJECT", "TRACKING.NAME")
