"""What tools/convert_checkpoint.py does not convert: one sentence, and nothing is written."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.conversion import TOOL, arguments, public_state, refusal, small_state, tool_main
from helpers.models import ROOT


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_start_for_training_needs_the_whole_resnet():
    state = {name: value for name, value in small_state().items() if "res4.3.conv2.weight" not in name}
    torch.save(state, "zoo.pth")
    message = refusal(arguments("detectron2", "zoo.pth"))
    assert "'backbone.res4.3.conv2.weight'" in message and "1 of" in message


def test_parts_that_the_model_has_no_place_for_make_it_another_model():
    torch.save(public_state() | {"embednet.embed_conv1.bias": torch.zeros(4)}, "fgfa.pth")
    message = refusal(arguments("mega", "fgfa.pth"))
    assert "no place for 1" in message and "embedding.0.bias" in message


def test_weights_of_another_number_of_classes():
    name = "module.roi_heads.box.predictor.cls_score.bias"
    torch.save(public_state() | {name: torch.zeros(11)}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert "'roi_heads.box_predictor.cls_score.bias' would have the shape (11,), expected (31,)" in message


def test_weights_of_other_code():
    torch.save(small_state(), "own.pth")
    assert "not of torchvision" in refusal(arguments("torchvision", "own.pth"))


def test_a_model_that_nothing_is_known_of_needs_a_configuration():
    torch.save(public_state(), "rdn.pth")
    words = ["--from", "mega", "rdn.pth", "out.safetensors"]
    assert "no configuration is known for these weights" in refusal(words)


class _Payload:
    """A pickle that creates a file when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_code_in_a_file_is_named_and_not_run(name):
    content = {"model": {"a": torch.zeros(1) if name.endswith("pth") else np.zeros(1), "b": _Payload()}}
    if name.endswith("pth"):
        torch.save(content, name)
    else:
        Path(name).write_bytes(pickle.dumps(content))
    message = refusal(arguments("mega", name))
    assert "contain code" in message and "mkdir" in message and "--trust-pickle" in message
    assert not Path("executed").exists()


def test_a_trusted_file_is_read_with_a_warning(caplog):
    torch.save({"model": public_state(), "epoch_of": Path("somewhere")}, "rdn.pth")
    assert "pathlib" in refusal(arguments("mega", "rdn.pth"))
    with caplog.at_level(logging.WARNING, logger="vod2.checkpoint"):
        tool_main()(arguments("mega", "rdn.pth", "--trust-pickle"))
    assert "code in this file is run" in caplog.text and Path("out.safetensors").is_file()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"<html>404</html>"])
def test_a_file_that_is_no_checkpoint(name, content):
    Path(name).write_bytes(content)
    assert "cannot be read" in refusal(arguments("mega", name))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
def test_a_file_that_was_cut_off(name):
    state = {"a": torch.zeros(100), "b": torch.ones(100)}
    if name.endswith("safetensors"):
        save_file(state, name)
    elif name.endswith("pth"):
        torch.save(state, name)
    else:
        Path(name).write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: len(whole) - 200])
    assert "cannot be read" in refusal(arguments("mega", name))


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"model": {"a": 3}}])
def test_a_file_without_tensors(content):
    torch.save(content, "weights.pth")
    assert "hold no tensors" in refusal(arguments("mega", "weights.pth"))


def test_a_file_that_does_not_exist_and_a_folder():
    Path("folder.pth").mkdir()
    assert "does not exist" in refusal(arguments("mega", "nowhere.pth"))
    assert "is a folder" in refusal(arguments("mega", "folder.pth"))


def test_the_output_is_a_safetensors_file_that_is_new_or_may_be_replaced():
    torch.save(public_state(), "rdn.pth")
    words = arguments("mega", "rdn.pth")
    assert "ends in .safetensors" in refusal([*words[:3], "out.pth", *words[4:]])
    Path("out.safetensors").write_text("old")
    assert "--overwrite" in refusal(words)
    assert Path("out.safetensors").read_text() == "old"
    tool_main()(arguments("mega", "rdn.pth", "--overwrite"))
    assert load_file("out.safetensors")


def test_an_output_that_cannot_be_written():
    torch.save(public_state(), "rdn.pth")
    Path("out.safetensors").mkdir()
    assert "cannot be written" in refusal(arguments("mega", "rdn.pth", "--overwrite"))


def test_the_old_format_of_pytorch_is_read_and_its_code_named():
    torch.save({"model": {"a": torch.zeros(1), "b": _Payload()}}, "old.pth", _use_new_zipfile_serialization=False)
    assert "contain code" in refusal(arguments("mega", "old.pth"))
    assert not Path("executed").exists()
    torch.save(public_state(), "old.pth", _use_new_zipfile_serialization=False)
    tool_main()(arguments("mega", "old.pth"))
    assert Path("out.safetensors").is_file()


def test_numbers_that_are_not_finite_are_refused_and_named():
    name = "module.backbone.body.stem.conv1.weight"
    torch.save(public_state() | {name: torch.full_like(public_state()[name], torch.nan)}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert "1 of 295 tensors hold values that are not finite: 'backbone.body.stem.conv1.weight'" in message
    torch.save({name: torch.full_like(value, torch.inf) for name, value in public_state().items()}, "rdn.pth")
    assert "295 of 295 tensors hold" in refusal(arguments("mega", "rdn.pth", "--partial"))


def test_whole_numbers_are_no_weights():
    name = "module.rpn.head.conv.bias"
    torch.save(public_state() | {name: public_state()[name].to(torch.int32)}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert "'rpn.head.conv.bias' is of torch.int32: expected floating point" in message


def test_a_sparse_tensor_is_named():
    name = "module.rpn.head.conv.weight"
    torch.save(public_state() | {name: public_state()[name].to_sparse()}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert f"'{name}' is sparse" in message and "expected plain, dense tensors" in message


@pytest.mark.parametrize("name", ["rpn.head.cls_logits.weight", "roi_heads.box.predictor.bbox_pred.weight"])
def test_a_single_number_where_rows_are_expected(name):
    torch.save(public_state() | {f"module.{name}": torch.tensor(1.0)}, "rdn.pth")
    assert f"'{name}' of the shape ()" in refusal(arguments("mega", "rdn.pth"))


def test_a_name_that_is_there_with_and_without_the_parallel_wrapper():
    torch.save(public_state() | {"rpn.head.conv.bias": torch.zeros(16)}, "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert "'module.rpn.head.conv.bias' is one of two tensors for 'rpn.head.conv.bias'" in message


@pytest.mark.parametrize("content, found", [({"model": {"state_dict": {}}}, "'state_dict'"), ({"net": {}}, "'net'")])
def test_weights_that_stand_elsewhere_in_the_file(content, found):
    torch.save(content, "weights.pth")
    assert f"found the keys {found}" in refusal(arguments("mega", "weights.pth"))


def test_a_message_that_is_only_a_number_has_its_kind():
    Path("weights.pkl").write_bytes(b"hello\n")  # the unpickler looks the number up
    message = refusal(arguments("mega", "weights.pkl"))
    assert "Error: " in message


def test_the_resnet_of_the_file_must_not_be_deeper_than_the_models():
    state = {name: value for name, value in small_state().items() if name.startswith("backbone.")}
    deeper = {name.replace(".5.", ".6."): value for name, value in state.items() if ".res4.5." in name}
    torch.save(state | deeper, "zoo.pth")
    message = refusal(arguments("detectron2", "zoo.pth"))
    assert f"no place for {len(deeper)} of its tensors, for example 'backbone.res4.6.conv1.weight'" in message


def test_the_file_itself_is_not_replaced():
    save_file({name: value.contiguous() for name, value in public_state().items()}, "out.safetensors")
    os.link("out.safetensors", "same.safetensors")
    before = Path("out.safetensors").read_bytes()
    for name in ("out.safetensors", "same.safetensors"):
        assert "is the file to convert" in refusal(arguments("mega", name, "--overwrite"))
    assert Path("out.safetensors").read_bytes() == before


@pytest.mark.parametrize("output", ["file/out.safetensors", "file/new/out.safetensors", "folder.safetensors"])
def test_where_nothing_can_be_written_is_told_before_anything_is_read(output):
    Path("file").write_text("")
    Path("folder.safetensors").mkdir()
    words = arguments("mega", "nowhere.pth", "--overwrite")
    words[3] = output
    assert refusal(words).startswith(f"output {output!r} cannot be written: ")


def test_a_folder_that_may_not_be_written_to(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert "you may not write to the folder" in refusal(arguments("mega", "nowhere.pth"))


def test_a_write_that_fails_names_the_output_alone(monkeypatch):
    def fail(tensors, path, metadata):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("vod2.checkpoint.files.save_file", fail)
    torch.save(public_state(), "rdn.pth")
    message = refusal(arguments("mega", "rdn.pth"))
    assert message == "output 'out.safetensors' cannot be written: No space left on device"


def test_from_the_command_line_a_mistake_is_one_line_and_exit_code_2():
    command = [sys.executable, str(TOOL), "--from", "mega", "nowhere.pth", "out.safetensors"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: weights 'nowhere.pth' cannot be read")
