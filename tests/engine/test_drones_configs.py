"""The configurations of the drones set."""

from pathlib import Path

import pytest

from vod2.d2 import DatasetCatalog, MetadataCatalog, build_model
from vod2.engine.setup import load_config

FOLDER = Path(__file__).parents[2] / "configs" / "drones"
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
METHODS = sorted(set(CONFIGS) - {"Base", "FasterRCNN", "FasterRCNN_EfficientNet"})


@pytest.mark.parametrize("name", CONFIGS)
def test_its_datasets_are_registered_and_it_has_as_many_classes(name):
    cfg = load_config(str(CONFIGS[name]), ["MODEL.DEVICE", "cpu"])
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert dataset in DatasetCatalog.list()
        assert len(MetadataCatalog.get(dataset).thing_classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


@pytest.mark.parametrize("name", METHODS)
def test_a_method_begins_with_the_final_weights_of_the_single_frame_and_warms_up(name):
    single = load_config(str(CONFIGS["FasterRCNN"]), ["MODEL.DEVICE", "cpu"])
    cfg = load_config(str(CONFIGS[name]), ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.WEIGHTS == f"{single.OUTPUT_DIR}/model_final.pth"
    assert cfg.OUTPUT_DIR == f"output/drones/{name}"
    assert cfg.SOLVER.WARMUP_ITERS > 0
    longer = load_config(str(CONFIGS["FasterRCNN_Longer"]), ["MODEL.DEVICE", "cpu"])
    assert cfg.SOLVER.MAX_ITER == longer.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", [*METHODS, "FasterRCNN_EfficientNet"])
def test_its_model_has_every_tensor_of_the_single_frames_in_its_shape(name):
    def shapes(config):
        model = build_model(load_config(str(CONFIGS[config]), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]))
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}

    single, own = shapes("FasterRCNN"), shapes(name)
    if name == "FasterRCNN_EfficientNet":  # its heads see other channels
        single = {key: shape for key, shape in single.items() if "predictor" in key}
    assert single and single.items() <= own.items()


@pytest.mark.parametrize("variant", ["ir", "visible"])
def test_the_overrides_for_damaged_videos_and_for_colour_name_registered_sets(variant):
    names = DatasetCatalog.list()
    for name in (f"drones_{variant}_damaged_train", f"drones_{variant}_damaged_val_every10"):
        assert name in names
