"""tools/convert_checkpoint.py: a public file in, a .safetensors file out, or one sentence and nothing."""

import importlib.util
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vod2.checkpoint import load_weights
from vod2.d2 import build_model
from vod2.engine import load_config
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "convert_checkpoint.py"
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.RPN.CONV_DIMS", "[16]"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.VIDEO.RELATION.NUM_HEADS", "4"),
]
CONFIG = str(ROOT / "configs" / "RDN_Base_R50.yaml")


@pytest.fixture(scope="module")
def convert_checkpoint() -> Callable[[list[str]], None]:
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, SMALL)).eval()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def public_name(name: str) -> str:
    """Of MEGA's code for a name of RDN's basic stage here, by plain replacement."""
    head = "roi_heads.box.feature_extractor."
    for stage in (2, 3, 4):
        name = name.replace(f"backbone.res{stage}.", f"backbone.body.layer{stage - 1}.")
    for number in (0, 1):
        for here, there in (("query", "Wqs"), ("key", "Wks"), ("value", "Wvs"), ("geometry.projection", "Wgs")):
            name = name.replace(f"roi_heads.aggregator.basic.{number}.{here}", f"{head}{there}.{number}")
    for here, there in (
        ("backbone.stem.", "backbone.body.stem."),
        ("backbone.res5.", f"{head}head.layer4."),
        ("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
        ("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
        ("proposal_generator.rpn_head.", "rpn.head."),
        ("roi_heads.box_head.fc1", f"{head}fcs.0"),
        ("roi_heads.aggregator.transform.0", f"{head}fcs.1"),
        ("roi_heads.box_predictor.", "roi_heads.box.predictor."),
        ("shortcut.norm", "downsample.1"),
        ("shortcut", "downsample.0"),
        *((f"conv{number}.norm", f"bn{number}") for number in (1, 2, 3)),
    ):
        name = name.replace(here, there)
    return name


@pytest.fixture(scope="module")
def public(model) -> dict[str, Tensor]:
    """The state of RDN's basic stage as MEGA's code would save it; the anchors' numbers are in another order."""
    state = {}
    for name, value in model.state_dict().items():
        there, value = public_name(name), value.clone()
        if "Wvs" in there or "Wgs" in there:
            value = value[..., None, None] if there.endswith("weight") else value
        if "cls_score" in there:
            value = torch.cat([value[-1:], value[:-1]])
        if "predictor.bbox_pred" in there:
            value = torch.cat([torch.full_like(value[:4], 9.0), value])
        state[f"module.{there}"] = value
    return state


def arguments(source: str, path: str, *more: str) -> list[str]:
    return ["--from", source, path, "out.safetensors", "--config-file", CONFIG, *more, "--opts", *SMALL]


def refusal(main: Callable, words: list[str]) -> str:
    """The one sentence that it ends with; nothing is written."""
    before = {path.name for path in Path().iterdir()}
    with pytest.raises(UserError) as error:
        main(words)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert {path.name for path in Path().iterdir()} == before
    return message


def test_a_public_checkpoint_becomes_weights_that_fill_the_model(convert_checkpoint, public, model, capsys):
    torch.save({"model": public, "optimizer": {"lr": 0.1}, "iteration": 3}, "rdn.pth")
    convert_checkpoint(arguments("mega", "rdn.pth"))
    other = build_model(load_config(CONFIG, SMALL))
    load_weights(other, "out.safetensors")
    wanted, found = model.state_dict(), other.state_dict()
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


def test_the_weights_of_a_safetensors_file_and_a_new_folder(convert_checkpoint, public):
    save_file({name: value.contiguous() for name, value in public.items()}, "rdn.safetensors")
    words = arguments("mega", "rdn.safetensors")
    words[3] = "weights/new/rdn.safetensors"
    convert_checkpoint(words)
    assert Path("weights/new/rdn.safetensors").is_file() and len(list(Path("weights/new").iterdir())) == 1


def test_a_start_for_training_may_lack_heads_and_tells_those_of_other_classes(convert_checkpoint, model, capsys):
    state = {name: value for name, value in model.state_dict().items() if "aggregator" not in name}
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(81)
    torch.save({"model": state}, "zoo.pth")
    convert_checkpoint(arguments("detectron2", "zoo.pth"))
    written = load_file("out.safetensors")
    assert "roi_heads.box_predictor.cls_score.bias" not in written and "backbone.stem.conv1.weight" in written
    printed = capsys.readouterr().out
    assert "of another shape, left out:\n  roi_heads.box_predictor.cls_score.bias (81,)" in printed
    assert "missing, as the model begins:\n  roi_heads.aggregator" in printed and "--eval-only" not in printed


def test_a_pickle_of_arrays_is_read_on_either_backend(convert_checkpoint, model):
    state = {
        name.removeprefix("backbone."): value.numpy() for name, value in model.state_dict().items() if "backb" in name
    }
    Path("R-50.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "somebody", "matching_heuristics": True}))
    convert_checkpoint(arguments("detectron2", "R-50.pkl"))
    assert load_file("out.safetensors").keys() == {f"backbone.{name}" for name in state}


def test_a_start_for_training_needs_the_whole_resnet(convert_checkpoint, model):
    state = {name: value for name, value in model.state_dict().items() if "res4.3.conv2.weight" not in name}
    torch.save(state, "zoo.pth")
    message = refusal(convert_checkpoint, arguments("detectron2", "zoo.pth"))
    assert "'backbone.res4.3.conv2.weight'" in message and "1 of" in message


def test_a_detector_must_get_all_of_its_parameters_unless_asked_for_less(convert_checkpoint, public):
    torch.save({name: value for name, value in public.items() if "Wqs.1" not in name}, "rdn.pth")
    message = refusal(convert_checkpoint, arguments("mega", "rdn.pth"))
    assert "2 of" in message and "'roi_heads.aggregator.basic.1.query.weight'" in message and "--partial" in message
    convert_checkpoint(arguments("mega", "rdn.pth", "--partial"))
    assert Path("out.safetensors").is_file()


def test_parts_that_the_model_has_no_place_for_make_it_another_model(convert_checkpoint, public):
    torch.save(public | {"embednet.embed_conv1.bias": torch.zeros(4)}, "fgfa.pth")
    message = refusal(convert_checkpoint, arguments("mega", "fgfa.pth"))
    assert "no place for 1" in message and "embedding.0.bias" in message


def test_weights_of_another_number_of_classes(convert_checkpoint, public):
    name = "module.roi_heads.box.predictor.cls_score.bias"
    torch.save(public | {name: torch.zeros(11)}, "rdn.pth")
    message = refusal(convert_checkpoint, arguments("mega", "rdn.pth"))
    assert "'roi_heads.box_predictor.cls_score.bias' would have the shape (11,), expected (31,)" in message


def test_weights_of_other_code(convert_checkpoint, model):
    torch.save(model.state_dict(), "own.pth")
    assert "not of torchvision" in refusal(convert_checkpoint, arguments("torchvision", "own.pth"))


def test_a_model_that_nothing_is_known_of_needs_a_configuration(convert_checkpoint, public):
    torch.save(public, "rdn.pth")
    words = ["--from", "mega", "rdn.pth", "out.safetensors"]
    assert "no configuration is known for these weights" in refusal(convert_checkpoint, words)


class _Payload:
    """A pickle that creates a file when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_code_in_a_file_is_named_and_not_run(convert_checkpoint, name):
    content = {"model": {"a": torch.zeros(1) if name.endswith("pth") else np.zeros(1), "b": _Payload()}}
    if name.endswith("pth"):
        torch.save(content, name)
    else:
        Path(name).write_bytes(pickle.dumps(content))
    message = refusal(convert_checkpoint, arguments("mega", name))
    assert "contain code" in message and "mkdir" in message and "--trust-pickle" in message
    assert not Path("executed").exists()


def test_a_trusted_file_is_read_with_a_warning(convert_checkpoint, public, caplog):
    torch.save({"model": public, "epoch_of": Path("somewhere")}, "rdn.pth")
    assert "pathlib" in refusal(convert_checkpoint, arguments("mega", "rdn.pth"))
    with caplog.at_level(logging.WARNING, logger="vod2.checkpoint"):
        convert_checkpoint(arguments("mega", "rdn.pth", "--trust-pickle"))
    assert "code in this file is run" in caplog.text and Path("out.safetensors").is_file()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"<html>404</html>"])
def test_a_file_that_is_no_checkpoint(convert_checkpoint, name, content):
    Path(name).write_bytes(content)
    assert "cannot be read" in refusal(convert_checkpoint, arguments("mega", name))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
def test_a_file_that_was_cut_off(convert_checkpoint, name):
    state = {"a": torch.zeros(100), "b": torch.ones(100)}
    if name.endswith("safetensors"):
        save_file(state, name)
    elif name.endswith("pth"):
        torch.save(state, name)
    else:
        Path(name).write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: len(whole) - 200])
    assert "cannot be read" in refusal(convert_checkpoint, arguments("mega", name))


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"model": {"a": 3}}])
def test_a_file_without_tensors(convert_checkpoint, content):
    torch.save(content, "weights.pth")
    assert "hold no tensors" in refusal(convert_checkpoint, arguments("mega", "weights.pth"))


def test_a_file_that_does_not_exist_and_a_folder(convert_checkpoint):
    Path("folder.pth").mkdir()
    assert "does not exist" in refusal(convert_checkpoint, arguments("mega", "nowhere.pth"))
    assert "is a folder" in refusal(convert_checkpoint, arguments("mega", "folder.pth"))


def test_the_output_is_a_safetensors_file_that_is_new_or_may_be_replaced(convert_checkpoint, public):
    torch.save(public, "rdn.pth")
    words = arguments("mega", "rdn.pth")
    assert "ends in .safetensors" in refusal(convert_checkpoint, [*words[:3], "out.pth", *words[4:]])
    Path("out.safetensors").write_text("old")
    assert "--overwrite" in refusal(convert_checkpoint, words)
    assert Path("out.safetensors").read_text() == "old"
    convert_checkpoint(arguments("mega", "rdn.pth", "--overwrite"))
    assert load_file("out.safetensors")


def test_an_output_that_cannot_be_written(convert_checkpoint, public):
    torch.save(public, "rdn.pth")
    Path("out.safetensors").mkdir()
    assert "cannot be written" in refusal(convert_checkpoint, arguments("mega", "rdn.pth", "--overwrite"))


def test_the_old_format_of_pytorch_is_read_and_its_code_named(convert_checkpoint, public):
    torch.save({"model": {"a": torch.zeros(1), "b": _Payload()}}, "old.pth", _use_new_zipfile_serialization=False)
    assert "contain code" in refusal(convert_checkpoint, arguments("mega", "old.pth"))
    assert not Path("executed").exists()
    torch.save(public, "old.pth", _use_new_zipfile_serialization=False)
    convert_checkpoint(arguments("mega", "old.pth"))
    assert Path("out.safetensors").is_file()


def test_numbers_that_are_not_finite_are_named(convert_checkpoint, public, caplog):
    name = "module.backbone.body.stem.conv1.weight"
    torch.save(public | {name: torch.full_like(public[name], torch.nan)}, "rdn.pth")
    with caplog.at_level(logging.WARNING, logger="vod2.checkpoint"):
        convert_checkpoint(arguments("mega", "rdn.pth"))
    assert "'module.backbone.body.stem.conv1.weight' holds values that are not finite" in caplog.text


def test_from_the_command_line_a_mistake_is_one_line_and_exit_code_2():
    command = [sys.executable, str(TOOL), "--from", "mega", "nowhere.pth", "out.safetensors"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: weights 'nowhere.pth' cannot be read")
