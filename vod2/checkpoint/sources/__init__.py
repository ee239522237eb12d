"""What public code calls its weights, one file for each."""

from vod2.checkpoint.sources import detectron2_zoo, efficientnet, flownet, mega, mmtracking, torchvision_models
from vod2.checkpoint.sources.rules import Rule, Source, Target, of_resnet

SOURCES: dict[str, Source] = {
    "mega": mega.SOURCE,
    "mmtracking-selsa": mmtracking.SOURCE,
    "detectron2": detectron2_zoo.SOURCE,
    "torchvision": torchvision_models.SOURCE,
    "efficientnet-lite": efficientnet.SOURCE,
    "flownets": flownet.SOURCE,
}
"""{name: conventions} of what `convert` knows."""

__all__ = ["SOURCES", "Rule", "Source", "Target", "of_resnet"]
