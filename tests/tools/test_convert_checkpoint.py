"""tools/convert_checkpoint.py: a public file in, a .safetensors file out."""

import os
import pickle
import shlex
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.conversion import CONFIG, SMALL, arguments, public_state, refusal, small_state, tool_main
from vod2.checkpoint import load_weights
from vod2.d2 import build_model
from vod2.engine import load_config


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_public_checkpoint_becomes_weights_that_fill_the_model(capsys):
    torch.save({"model": public_state(), "optimizer": {"lr": 0.1}, "iteration": 3}, "rdn.pth")
    tool_main()(arguments("mega", "rdn.pth"))
    other = build_model(load_config(CONFIG, SMALL))
    load_weights(other, "out.safetensors")
    wanted, found = small_state(), other.state_dict()
    for name in ("roi_heads.aggregator.basic.1.value.weight", "roi_heads.box_predictor.bbox_pred.weight"):
        assert found[name].equal(wanted[name])
    with safe_open("out.safetensors", "pt") as file:
        told = file.metadata()
    assert told["vod2.config"] == "RDN_Base_R50.yaml" and told["vod2.from"] == "mega" and told["format"] == "pt"
    assert told["vod2.source"] == "rdn.pth" and len(told["vod2.source_sha256"]) == 64
    printed = capsys.readouterr().out
    assert "background: first row to last" in printed and "100.0% of the numbers" in printed
    assert "MODEL.LEGACY.INCLUSIVE_BOXES True" in printed, "this configuration has it otherwise"
    assert f"--config-file {CONFIG} --eval-only MODEL.WEIGHTS out.safetensors" in printed


def test_the_weights_of_a_safetensors_file_and_a_new_folder_which_is_told(capsys):
    save_file({name: value.contiguous() for name, value in public_state().items()}, "rdn.safetensors")
    words = arguments("mega", "rdn.safetensors")
    words[3] = "weights/new/rdn.safetensors"
    tool_main()(words)
    assert Path("weights/new/rdn.safetensors").is_file() and len(list(Path("weights/new").iterdir())) == 1
    assert f"The folder {Path('weights/new').absolute()} does not exist" in capsys.readouterr().out


def test_a_start_for_training_may_lack_heads_and_tells_those_of_other_classes(capsys):
    state = {name: value for name, value in small_state().items() if "aggregator" not in name}
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(81)
    state["mask_head.weight"] = torch.zeros(2)
    torch.save({"model": state}, "zoo.pth")
    tool_main()(arguments("detectron2", "zoo.pth"))
    written = load_file("out.safetensors")
    assert "roi_heads.box_predictor.cls_score.bias" not in written and "backbone.stem.conv1.weight" in written
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.count("|") == 4]
    assert ["module", "loaded", "new", "of another shape", "unused of the file"] in rows
    assert ["roi_heads.aggregator", "", "18 tensors, 2.4 k", "", ""] in rows
    assert ["mask_head", "", "", "", "1 tensor, 2"] in rows
    assert "roi_heads.box_predictor.cls_score.bias: (81,) in the file, (31,) in the model" in printed
    assert "--eval-only" not in printed


def test_a_pickle_of_arrays_is_read_on_either_backend():
    state = {name.removeprefix("backbone."): value.numpy() for name, value in small_state().items() if "backb" in name}
    Path("R-50.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "somebody", "matching_heuristics": True}))
    tool_main()(arguments("detectron2", "R-50.pkl"))
    assert load_file("out.safetensors").keys() == {f"backbone.{name}" for name in state}


def test_a_detector_must_get_all_of_its_parameters_unless_asked_for_less():
    torch.save({name: value for name, value in public_state().items() if "Wqs.1" not in name}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert "2 of" in message and "'roi_heads.aggregator.basic.1.query.weight'" in message and "--partial" in message
    tool_main()(arguments("mega", "rdn.pth", "--partial"))
    assert Path("out.safetensors").is_file()


def of_twenty_classes() -> dict[str, Tensor]:
    state = dict(public_state())
    for name, rows in (("cls_score", 21), ("bbox_pred", 84)):
        for kind in ("weight", "bias"):
            key = f"module.roi_heads.box.predictor.{name}.{kind}"
            state[key] = state[key][:rows].clone()
    return state


def test_a_detector_of_other_classes_is_no_detector_until_it_is_trained(capsys):
    """Nothing is missing: a part is of another shape."""
    torch.save(of_twenty_classes(), "rdn.pth")
    tool_main()(arguments("mega", "rdn.pth", "--partial"))
    assert "--eval-only" not in capsys.readouterr().out


def test_a_layer_whose_weight_is_left_out_leaves_its_bias_out():
    state = dict(small_state())
    state["roi_heads.box_head.fc1.weight"] = torch.zeros(16, 9)
    del state["roi_heads.aggregator.transform.0.weight"]
    torch.save(state, "zoo.pth")
    tool_main()(arguments("detectron2", "zoo.pth"))
    left_out = small_state().keys() - load_file("out.safetensors").keys()
    names = ("roi_heads.box_head.fc1", "roi_heads.aggregator.transform.0")
    assert left_out == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def test_the_classifier_of_a_backbone_of_the_zoo_is_not_a_part_of_its_resnet():
    state = {name: value for name, value in small_state().items() if name.startswith("backbone.")}
    torch.save(state | {"stem.fc.weight": torch.zeros(2, 2), "stem.fc.bias": torch.zeros(2)}, "zoo.pth")
    tool_main()(arguments("detectron2", "zoo.pth"))
    assert load_file("out.safetensors").keys() == state.keys()


def test_options_are_in_the_file_and_in_the_command(capsys):
    torch.save(of_twenty_classes(), "rdn.pth")
    tool_main()(arguments("mega", "rdn.pth", opts=("MODEL.ROI_HEADS.NUM_CLASSES", "20")))
    with safe_open("out.safetensors", "pt") as file:
        told = file.metadata()["vod2.opts"]
    assert shlex.split(told) == [*SMALL, "MODEL.ROI_HEADS.NUM_CLASSES", "20"]
    assert told in capsys.readouterr().out


def test_the_command_gives_another_configuration_the_conventions_of_the_weights(capsys):
    torch.save(public_state(), "rdn.pth")
    tool_main()(arguments("mega", "rdn.pth"))
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    cfg = load_config(command[command.index("--config-file") + 1], command[command.index("MODEL.WEIGHTS") :])
    assert cfg.MODEL.ANCHOR_GENERATOR.OFFSET == 0.5 and cfg.MODEL.ANCHOR_GENERATOR.NAME == "RoundedAnchorGenerator"
    assert cfg.INPUT.RESIZE_TRUNCATES and cfg.TEST.VID_PROTOCOL == "mega" and cfg.VIDEO.TEST_SCHEDULE.EDGE == "repeat"
    load_weights(build_model(cfg), cfg.MODEL.WEIGHTS)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_the_output_may_be_read_by_whom_the_umask_lets(umask):
    torch.save(public_state(), "rdn.pth")
    before = os.umask(umask)
    try:
        tool_main()(arguments("mega", "rdn.pth"))
    finally:
        os.umask(before)
    assert Path("out.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
