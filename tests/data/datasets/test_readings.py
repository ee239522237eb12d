"""What a dataset has read is kept where its files are asked for again and again, and nowhere else."""

import gc
import weakref

import pytest

from helpers.counting import count_readings
from helpers.models import ROOT
from helpers.own_data import write_layout
from vod2.commands.train import evaluate
from vod2.d2 import DatasetCatalog, DatasetEvaluator, MetadataCatalog, default_argument_parser
from vod2.data.datasets import readings
from vod2.data.datasets.common import register_frames
from vod2.data.datasets.readings import MOST_KEPT, content_of, forget_readings, reading_once
from vod2.data.discovery import find_layout, register_data
from vod2.engine import VideoTrainer, load_config
from vod2.evaluation import VIDEvaluator


class Source:
    """Reads something new at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> set[int]:
        self.calls += 1
        return {self.calls}


def test_it_is_kept_inside_only_and_the_outer_one_ends_it():
    source = Source()
    with reading_once():
        first = content_of(source)
        with reading_once():
            assert content_of(source) is first
        assert content_of(source) is first
    assert content_of(source) == {2} and content_of(source) == {3}


def test_a_failure_ends_it_and_what_could_not_be_read_is_read_again():
    source = Source()

    def broken():
        source()
        raise ValueError

    with pytest.raises(ValueError), reading_once():
        with pytest.raises(ValueError):
            content_of(broken)
        content_of(broken)
    assert source.calls == 2
    content_of(source), content_of(source)
    assert source.calls == 4


def test_only_the_latest_are_kept_and_all_can_be_forgotten():
    sources = [Source() for _ in range(MOST_KEPT + 1)]
    with reading_once():
        content = weakref.ref(content_of(sources[0]))
        for source in sources:
            content_of(source)
        gc.collect()
        assert content() is None and [source.calls for source in sources] == [1] * len(sources)
        content_of(sources[-1]), content_of(sources[0])
        assert sources[-1].calls == 1 and sources[0].calls == 2
        forget_readings()
        content_of(sources[0])
        assert sources[0].calls == 3
    forget_readings()  # outside there is nothing to forget


@pytest.fixture
def cfg(tmp_path):
    """A training of one COCO file, which is split."""
    layout = find_layout(write_layout(tmp_path / "mine", "coco"))
    register_data("readings", layout.format, layout.parts, val_share=0.5, val_frames=2)
    words = ["DATASETS.TRAIN", "('readings_train',)", "DATASETS.TEST", "('readings_val',)", "MODEL.WEIGHTS", ""]
    words += ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    words += ["INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"]
    return load_config(str(ROOT / "configs" / "quick" / "FasterRCNN.yaml"), words)


def test_a_trainer_reads_a_file_once_and_each_evaluation_once_more(cfg, monkeypatch):
    read, parsed = count_readings(monkeypatch)
    trainer = VideoTrainer(cfg)
    assert read["mine.json"] == parsed["mine.json"] == 1
    VideoTrainer.test(cfg, trainer.model)
    assert read["mine.json"] == 2


@pytest.mark.parametrize("linker", ["", "SeqNMS"])
def test_an_evaluation_reads_a_file_once_and_keeps_nothing_of_it(cfg, monkeypatch, tmp_path, linker):
    trainer = VideoTrainer(cfg)
    trainer.save("model")
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model.safetensors")
    cfg.MODEL.VIDEO.LINKER.NAME = linker
    read, _ = count_readings(monkeypatch)
    kept = []
    process = VIDEvaluator.process
    monkeypatch.setattr(VIDEvaluator, "process", lambda *given: kept.append(len(readings._kept)) or process(*given))
    evaluate(cfg, default_argument_parser().parse_args(["--eval-only"]))
    assert read["mine.json"] == 1 and kept and not any(kept)


def test_given_evaluators_begin_without_what_was_read(cfg):
    class Noted(DatasetEvaluator):
        kept = None

        def process(self, inputs, outputs):
            self.kept = len(readings._kept)

        def evaluate(self):
            return {"noted": {"kept": self.kept}}

    assert VideoTrainer.test(cfg, VideoTrainer(cfg).model, Noted()) == {"noted": {"kept": 0}}


def test_who_changes_a_dict_does_not_change_what_is_kept(cfg):
    with reading_once():
        for record in DatasetCatalog.get("readings_all"):
            record["seen"] = True
        assert not any("seen" in record for record in DatasetCatalog.get("readings_all"))


def test_frames_of_known_classes_are_read_once_too_and_copied():
    calls = []

    def load():
        calls.append(1)
        return [{"image_id": "a"}]

    register_frames("readings_frames", load, thing_classes=["x"], evaluator_type="uavdt")
    try:
        with reading_once():
            DatasetCatalog.get("readings_frames")[0]["seen"] = True
            assert DatasetCatalog.get("readings_frames") == [{"image_id": "a"}] and len(calls) == 1
        DatasetCatalog.get("readings_frames")
        assert len(calls) == 2
        assert MetadataCatalog.get("readings_frames").evaluator_type == "uavdt"
    finally:
        DatasetCatalog.remove("readings_frames")
        MetadataCatalog.remove("readings_frames")
