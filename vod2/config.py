"""The configuration keys that vod2 adds to Detectron2's."""

from collections.abc import Callable

from vod2.d2 import CfgNode

_EXTENSIONS: list[Callable[[CfgNode], None]] = []


def register_config(add_keys: Callable[[CfgNode], None]) -> Callable[[CfgNode], None]:
    """Decorator for a project's function that adds its keys; `add_video_config` calls it."""
    _EXTENSIONS.append(add_keys)
    return add_keys


def add_video_config(cfg: CfgNode) -> CfgNode:
    """Add every key of vod2 and of the projects to `cfg` (in place) and return it.

    Example:
        >>> from vod2 import add_video_config
        >>> from vod2.d2 import get_cfg
        >>> add_video_config(get_cfg()).VIDEO.TEST_SCHEDULE.NAME
        'NoWindow'
    """
    _add_time(cfg)
    _add_model(cfg)
    _add_data(cfg)
    _add_augmentation(cfg)
    _add_engine(cfg)
    for add_keys in _EXTENSIONS:
        add_keys(cfg)
    return cfg


def _add_time(cfg: CfgNode) -> None:
    cfg.VIDEO = CfgNode()
    # Supports of a training clip
    train = cfg.VIDEO.TRAIN_SCHEDULE = CfgNode()
    train.NAME = "NoSupport"  # in TRAINING_SCHEDULE_REGISTRY
    train.RADIUS = 18  # RandomNear, LocalMemoryGlobal: frames on either side of the key frame
    train.COUNT = 2  # RandomNear, RandomVideo, RandomBothSides: supports to draw; LocalMemoryGlobal: LOCAL ones
    train.MEMORY_COUNT = 3  # LocalMemoryGlobal: MEMORY ones
    train.GLOBAL_COUNT = 2  # LocalMemoryGlobal: GLOBAL ones
    train.INCLUDE_KEY = True  # RandomVideo: the key frame may be drawn; LocalMemoryGlobal: it is a LOCAL one, too
    train.WITH_KEY = False  # the key frame is a support of itself, too, with its sampled RoIs (SELSA)
    train.INTERVAL = 10  # RandomKeyframe, KeyframeTriplet: distance of two keyframes
    train.TRIPLET = "stream"  # KeyframeTriplet: "stream", or public code's "online" or "released"
    # The window of a frame in inference
    test = cfg.VIDEO.TEST_SCHEDULE = CfgNode()
    test.NAME = "NoWindow"  # in SUPPORT_SCHEDULE_REGISTRY; "A+B" is the union of A and B
    test.RADIUS = 18  # SlidingWindow: frames before the key frame
    test.LOOKAHEAD = -1  # SlidingWindow: frames after it, -1 for as many as RADIUS, 0 for causal (also the global ones)
    test.EDGE = "clip"  # SlidingWindow at the ends of a video: "clip" or "repeat" the edge frame
    test.COUNT = 21  # GlobalSample: frames of the video, the key frame one of them; RollingGlobal: frames beside it
    test.INCLUDE_KEY = True  # GlobalSample: the key frame is always one of COUNT; False: only where it is drawn
    test.INTERVAL = 10  # Keyframes: distance of two keyframes


def _add_model(cfg: CfgNode) -> None:
    video = cfg.MODEL.VIDEO = CfgNode()
    video.SUPPORT_TOPK = 75  # proposals kept of a support frame, those of the highest objectness
    video.PIXEL_AGGREGATOR = CfgNode({"NAME": ""})  # level 1, in PIXEL_AGGREGATOR_REGISTRY; "" for none
    # level 2, in PROPOSAL_AGGREGATOR_REGISTRY; "A+B" is B on what A makes of the key frame's proposals; "" for none
    video.PROPOSAL_AGGREGATOR = CfgNode({"NAME": ""})
    video.KEEP_RELATIONS = False  # detections tell their relation to the boxes of the next frame (for the linker BLR)
    video.OHEM = 0  # RoIs of a key frame that its loss is taken of, those of the highest loss; 0 for all
    # Training: anchors and RoIs of the background with more than this share of their area in an ignore region (or in a
    # crowd) are not sampled; 0 for Detectron2's rule, by which they are background like any other
    video.IGNORE_OVERLAP = 0.5
    video.REDUCE_CHANNELS = 0  # 1x1 convolution to so many channels and ReLU before pooling (SELSA: 256); 0 for none
    linker = video.LINKER = CfgNode()  # level 3, over the detections of a whole video
    linker.NAME = ""  # in BOX_LINKER_REGISTRY: "SeqNMS", "TubeletLinking", "BLR"; "" for none
    linker.LINK_IOU = 0.5  # SeqNMS: boxes of consecutive frames are linked from this IoU on
    linker.SUPPRESS_IOU = 0.3  # SeqNMS: boxes in the frame of a linked one are suppressed from this IoU on
    linker.RESCORE = "mean"  # SeqNMS: a path's boxes get the "mean" or "max" of its scores
    linker.TOP_SHARE = 0.5  # TubeletLinking, BLR: the mean of this share of a path's scores, the best, is added to all
    relation = video.RELATION = CfgNode()
    relation.NUM_HEADS = 16  # relation features M of a relation module (RDN, section 4)
    relation.GEOMETRY_DIM = 64  # length of the sine/cosine embedding of a pair of boxes
    relation.GEOMETRY_SCALE = 100.0  # its factor
    relation.GEOMETRY_WAVELENGTH = 1000.0  # its longest wavelength
    cfg.MODEL.ALIGNER = CfgNode({"NAME": ""})  # in ALIGNER_REGISTRY, for methods that align feature maps (LSTS, MST)
    cfg.MODEL.ALIGNER.WIDTH = 128  # DAlign: channels that it works in
    cfg.MODEL.ALIGNER.RESIDUAL = False  # DAlign: the aligned map is added to the support's, rather than replacing it
    cfg.MODEL.ALIGNER.MODULATED = True  # DAlign: the taps of its deformable layers have masks beside their offsets
    cfg.MODEL.ALIGNER.EMBEDDING_DIM = 256  # all but DAlign, FlowNetS: channels of what is compared
    cfg.MODEL.ALIGNER.EQUAL_START = True  # the same: the embeddings f and g of a pair of maps begin with equal weights
    cfg.MODEL.ALIGNER.NUM_LOCATIONS = 40  # LearnedSampling: places around a cell; 81 for the uniform window
    cfg.MODEL.ALIGNER.INIT = "gaussian"  # LearnedSampling: how the locations begin, "gaussian" or "uniform"
    cfg.MODEL.ALIGNER.INIT_STD = 1.0  # LearnedSampling: standard deviation of "gaussian", in cells
    cfg.MODEL.ALIGNER.LEARNED = True  # LearnedSampling: whether the locations change in training
    cfg.MODEL.ALIGNER.NORMALISER = "softmax"  # of the weights of these; "linear" for equation 3 as printed
    cfg.MODEL.ALIGNER.LR_MULTIPLIER = 10.0  # LearnedSampling: on the learning rate of the locations
    flow = cfg.MODEL.FLOWNET = CfgNode()  # optical flow, for methods that warp feature maps along it
    flow.WIDTH = 1.0  # factor of its inner channels
    flow.WEIGHTS = ""  # what it begins a training with, of convert_checkpoint.py --from flownets; "" for a flow of 0
    flow.LEGACY_WARP = False  # warp as the public code of DFF and FGFA does, for its weights
    legacy = cfg.MODEL.LEGACY = CfgNode()  # conventions of older code, for weights that were trained with it
    legacy.INCLUSIVE_BOXES = False  # boxes include their last pixel (width x2 - x1 + 1), in targets and detections, too
    legacy.KEEP_TIES = False  # detections with the score of the last of TEST.DETECTIONS_PER_IMAGE are kept, too
    legacy.FROZEN_BN_EPS = 1e-5  # added to variances in the backbone's frozen normalisation; 1e-20 is as good as none
    # build_head_map_backbone: a ResNet whose res5 ends in a map for the RPN and one for the heads (R-FCN)
    head_map = cfg.MODEL.HEAD_MAP = CfgNode()
    head_map.BOTTOM_UP = "build_resnet_backbone"  # in BACKBONE_REGISTRY
    head_map.CHANNELS = 1024  # of both maps together
    head_map.DILATION = 6  # of the 3x3 convolution that makes them
    # build_narrow_resnet_backbone: basic blocks, for a CPU
    narrow = cfg.MODEL.NARROW_RESNET = CfgNode()
    narrow.STEM_CHANNELS = 16
    narrow.CHANNELS = [16, 32, 64, 96]  # of res2 .. res5
    narrow.BLOCKS = [1, 1, 1, 1]  # of res2 .. res5
    narrow.STRIDES = [1, 2, 2, 1]  # of res2 .. res5, after the stem's 4; [1, 2, 1, 1] for objects of some ten pixels


def _add_data(cfg: CfgNode) -> None:
    # 0 for all still images; else one goes if each of its classes has so many without it
    cfg.DATASETS.MAX_IMAGES_PER_CLASS = 0
    # One positive number for each of DATASETS.TRAIN, its share of the samples (they need not add up to 1); () for as
    # many samples of each as it has
    cfg.DATASETS.TRAIN_PROPORTIONS = ()
    # DATALOADER.SAMPLER_TRAIN = "TripletVideos" (HVR-Net): a batch is NUM_CLASSES x NUM_VIDEOS clips for each process.
    # A clip has 1 + VIDEO.TRAIN_SCHEDULE.COUNT frames: 3 by default, the key frame in the middle with RandomBothSides
    triplet = cfg.DATALOADER.TRIPLET = CfgNode()
    triplet.NUM_CLASSES = 3
    triplet.NUM_VIDEOS = 3  # of each class
    cfg.DATASETS.ON_BAD_FRAME = "error"  # a frame that cannot be read: "error", or "skip" for the nearest of its video
    cfg.DATASETS.MAX_BAD_FRAMES = 100  # "skip": stop after so many bad files (each worker process counts its own)


def _add_augmentation(cfg: CfgNode) -> None:
    cfg.INPUT.RESIZE_TRUNCATES = False  # the longer side is cut to whole pixels, not rounded, as in older code
    # Of training clips, before resizing and flipping: "" for nothing, "SSD" for colours, expanding and cropping
    cfg.INPUT.VIDEO_AUGMENTATION = ""
    ssd = cfg.INPUT.SSD = CfgNode()
    ssd.BRIGHTNESS = 32.0  # at most so much is added or taken away
    ssd.CONTRAST = (0.5, 1.5)  # least and greatest factor
    ssd.SATURATION = (0.5, 1.5)  # least and greatest factor
    ssd.HUE = 18.0  # at most so many degrees to either side
    ssd.PHOTOMETRIC_PROB = 0.5  # of each of these four and of a shuffle of the channels
    ssd.EXPAND = (1.0, 2.0)  # least and greatest ratio of the canvas, filled with MODEL.PIXEL_MEAN, to the frame
    ssd.EXPAND_PROB = 0.5
    # Least IoU of a crop with every box of the key frame; no crop and a free one are as likely as each of these
    ssd.CROP_MIN_IOU = (0.1, 0.3, 0.5, 0.7, 0.9)


def _add_engine(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    # n devices make the update of n times so many: each cuts its share of IMS_PER_BATCH into parts and adds gradients
    cfg.SOLVER.ACCUMULATE = 1
    cfg.TEST.VID_PROTOCOL = "imagenet"  # rule of matching boxes: "imagenet", "fixed", "fgfa" or "mega"
    # A kind of deterioration is evaluated on the "frames" that have it, with all objects and detections of those, or on
    # the "objects" that have it, with the detections of all frames
    cfg.TEST.VID_GROUPS = "frames"
    cfg.TEST.FRAME_KINDS = ""  # JSON file of deteriorated frames (docs/evaluation.md); "" for that of the metadata
    # What a frame looks at: frames of its "own" video, "none", or "foreign" ones, of another video (docs/ablations.md)
    cfg.TEST.CONTEXT = "own"
    cfg.TEST.COCO_AP = True  # also the AP of COCO, by pycocotools
