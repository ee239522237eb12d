"""The trained weights that come with vod2, and the tool that puts them there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from helpers.modules import load_module
from vod2 import VideoPredictor, model_zoo, package_files
from vod2.checkpoint.files import read_weights, stored_classes, write_weights
from vod2.commands import zoo
from vod2.engine import load_config
from vod2.errors import UserError

ROOT = Path(__file__).parents[2]
SHIPPED = package_files.shipped_weights()


@pytest.fixture
def pack(monkeypatch, tmp_path):
    tool = load_module(ROOT / "tools" / "pack_checkpoint.py")
    monkeypatch.setattr(tool, "CHECKPOINTS", tmp_path / "checkpoints")
    return tool


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_and_of_their_configuration(name):
    assert SHIPPED[name].stat().st_size <= 10_000_000
    cfg = load_config(f"{name}.yaml")
    assert len(stored_classes(SHIPPED[name])) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    predictor = VideoPredictor(name)
    assert len(predictor.class_names) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    stored = read_weights(SHIPPED[name])
    state = predictor.model.state_dict()
    assert state.keys() == stored.keys()
    for key, tensor in stored.items():
        assert tensor.isfinite().all() and torch.equal(state[key], tensor.to(state[key].dtype))


def test_the_page_says_of_each_how_it_was_made():
    page = (package_files.CHECKPOINTS / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|.*\btools/ablate\.py .*--seeds \d.*\|$", page, flags=re.MULTILINE)
    assert rows == list(SHIPPED)


def test_the_zoo_gives_them_by_name_and_lists_them(capsys, monkeypatch):
    name = next(iter(SHIPPED))
    assert model_zoo.trained_weights(f"configs/{name}.yaml") == str(SHIPPED[name])
    assert model_zoo.get_config(name, trained=True).MODEL.WEIGHTS == str(SHIPPED[name])
    monkeypatch.setattr(sys, "argv", ["vod2 zoo"])
    zoo.main([])
    first_table = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in first_table] == list(SHIPPED)
    zoo.main([name])
    said = capsys.readouterr().out
    assert f"{name}: {SHIPPED[name]}\n" in said and f"--config-file {name}.yaml" in said


def test_kernels_are_halved_and_nothing_else(pack, tmp_path):
    tensors = {
        "kernel": torch.randn(3, 2, 1, 1),
        "large": torch.full((2, 2), 1e6),
        "bias": torch.randn(3),
        "count": torch.zeros(2, 2, dtype=torch.int64),
    }
    write_weights(tmp_path / "in.safetensors", tensors, classes=["fox", "owl"])
    target = pack.pack(tmp_path / "in.safetensors", "quick/RDN")
    packed = read_weights(target)
    assert target == tmp_path / "checkpoints" / "quick" / "RDN.safetensors" and stored_classes(target) == ["fox", "owl"]
    assert packed["kernel"].dtype == torch.float16 and torch.equal(packed["kernel"], tensors["kernel"].half())
    for key in ("large", "bias", "count"):
        assert torch.equal(packed[key], tensors[key]) and packed[key].dtype == tensors[key].dtype


def test_what_is_no_name_or_too_large_or_there_already_is_refused(pack, tmp_path):
    write_weights(tmp_path / "in.safetensors", {"kernel": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="there is no configuration 'quick/RND'"):
        pack.pack(tmp_path / "in.safetensors", "quick/RND")
    pack.pack(tmp_path / "in.safetensors", "quick/RDN")
    with pytest.raises(UserError, match="exists: delete it first"):
        pack.pack(tmp_path / "in.safetensors", "quick/RDN")
    write_weights(tmp_path / "large.safetensors", {"bias": torch.zeros(2_600_000)})
    with pytest.raises(UserError, match="10,400,000 bytes in half the space, expected at most 10,000,000"):
        pack.pack(tmp_path / "large.safetensors", "quick/LSTS")
    assert not (tmp_path / "checkpoints" / "quick" / "LSTS.safetensors").exists()
