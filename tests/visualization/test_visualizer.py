"""Detectron2's own Visualizer takes what a VideoPredictor gives, on either backend."""

import numpy as np

from helpers.models import make_video, tiny_cfg
from vod2 import VideoPredictor
from vod2.d2 import MetadataCatalog, Visualizer
from vod2.engine.random_weights import draw_weights


def test_detectron2s_visualizer_draws_what_the_predictor_finds():
    predictor = VideoPredictor(tiny_cfg({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator"}), lookahead=0)
    draw_weights(predictor.model)
    metadata = MetadataCatalog.get("test_visualizer_of_predictor").set(thing_classes=list("abcde") * 6)
    image = make_video(1)[0].permute(1, 2, 0).contiguous().numpy()
    (found,) = predictor.step(image)
    instances = found.output["instances"].to("cpu")
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances).get_image()
    MetadataCatalog.remove("test_visualizer_of_predictor")
    assert len(instances) > 0 and drawn.shape == image.shape
    assert np.abs(drawn.astype(int) - image[:, :, ::-1]).max() > 20
