"""Names of classes travel with the weights of a training."""

import json

import pytest
import torch

from helpers.loaders import forget
from vod2.checkpoint.files import DamagedError, stored_classes, write_checkpoint, write_weights
from vod2.d2 import DatasetCatalog, MetadataCatalog, get_cfg
from vod2.engine.class_names import class_names_of, read_names, require_same_names
from vod2.errors import UserError

TENSORS = {"a": torch.zeros(2)}


@pytest.fixture
def dataset():
    DatasetCatalog.register("class_names_val", list)
    MetadataCatalog.get("class_names_val").set(thing_classes=["airplane", "bear"])
    yield "class_names_val"
    forget("class_names_val")


def config(weights="", count=2, test=("class_names_val",)):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.TEST = str(weights), count, test
    return cfg


def weights_of(folder, classes):
    return write_checkpoint(folder, "model_final", TENSORS, {}, {"classes": classes})


def test_weights_of_a_training_tell_their_names_also_without_their_manifest(tmp_path):
    weights = weights_of(tmp_path, ["elf", "gnome"])
    (tmp_path / "model_final.checkpoint.json").unlink()
    assert stored_classes(weights) == ["elf", "gnome"]
    assert stored_classes(weights_of(tmp_path, None)) is None


def test_weights_of_other_programs_tell_none(tmp_path):
    write_weights(tmp_path / "plain.safetensors", TENSORS)
    torch.save(TENSORS, tmp_path / "plain.pth")
    assert stored_classes(tmp_path / "plain.safetensors") is None and stored_classes(tmp_path / "plain.pth") is None


@pytest.mark.parametrize("text", ["[", "3", '["a", 3]', "[" * 100_000])
def test_names_that_are_no_list_are_refused_with_the_file(tmp_path, text):
    write_weights(tmp_path / "odd.safetensors", TENSORS, {"vod2.classes": text})
    with pytest.raises(DamagedError, match="odd.safetensors"):
        stored_classes(tmp_path / "odd.safetensors")


def test_those_of_the_weights_come_before_those_of_the_dataset(tmp_path, dataset):
    assert class_names_of(config()) == ["airplane", "bear"]
    assert class_names_of(config(weights_of(tmp_path, ["elf", "gnome"]))) == ["elf", "gnome"]
    assert class_names_of(config(weights_of(tmp_path, ["elf"]), count=1)) == ["elf"]
    assert class_names_of(config(test=("nobody",))) == class_names_of(config(test=())) == []
    assert "nobody" not in MetadataCatalog.list()


def test_weights_under_their_former_name_have_their_names_too(tmp_path, dataset):
    weights_of(tmp_path, ["elf", "gnome"])
    cfg = config(tmp_path / "model_final.pth")  # only model_final.safetensors is there
    assert class_names_of(cfg) == ["elf", "gnome"]
    with pytest.raises(UserError, match="'elf' as label 0"):
        require_same_names(cfg, [dataset])


def test_another_number_of_names_is_refused(tmp_path, dataset):
    with pytest.raises(
        UserError, match="class_names_val' of DATASETS.TEST has 2 class names .airplane, bear., but .* is 1"
    ):
        class_names_of(config(count=1))
    with pytest.raises(UserError, match="model_final.safetensors has 1 class names"):
        class_names_of(config(weights_of(tmp_path, ["elf"])))
    (tmp_path / "names.txt").write_text("elf\n")
    with pytest.raises(UserError, match=r"names.txt has 1 class names .* give 2 names with --class-names FILE"):
        class_names_of(config(), tmp_path / "names.txt")


@pytest.mark.parametrize(
    "name, text",
    [
        ("names.txt", "elf\ngarden gnome\n\n"),
        ("names.json", '["elf", "garden gnome"]'),
        ("data.yaml", "names: [elf, garden gnome]"),
        ("marked.txt", "\ufeffelf\r\ngarden gnome"),
    ],
)
def test_a_file_of_names_comes_first(tmp_path, dataset, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert class_names_of(config(), tmp_path / name) == ["elf", "garden gnome"]


@pytest.mark.parametrize(
    "name, text", [("a.json", "{"), ("b.json", "{}"), ("c.txt", "\n"), ("d.json", json.dumps([3]))]
)
def test_a_file_without_names_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        read_names(tmp_path / name)


def test_weights_are_not_evaluated_under_other_names(tmp_path, dataset):
    require_same_names(config(), [dataset])
    require_same_names(config(weights_of(tmp_path, ["airplane", "bear"])), [dataset])
    with pytest.raises(UserError, match="was trained with 'bear' as label 0, which dataset .* calls 'airplane'"):
        require_same_names(config(weights_of(tmp_path, ["bear", "airplane"])), [dataset])
