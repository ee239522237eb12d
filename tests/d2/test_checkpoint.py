"""What can be loaded, what is saved, and what is said when it fails."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from vod2._d2lite.checkpoint import DetectionCheckpointer as LiteCheckpointer
from vod2.d2 import DetectionCheckpointer


def model(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("backbone", nn.Linear(2, 2))
    net.add_module("head", nn.Linear(2, 3))
    return net


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def save_pickle(path, data):
    with open(path, "wb") as f:
        pickle.dump(data, f)
    return str(path)


@pytest.fixture
def log():
    """The messages of the checkpointers, whatever handlers are set up."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("fvcore.common.checkpoint", "detectron2", "vod2._d2lite")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


def test_a_saved_checkpoint_restores_model_optimizer_and_extra_data(tmp_path):
    source = model(0)
    optimizer = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
    source.head(source.backbone(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    DetectionCheckpointer(source, str(tmp_path), optimizer=optimizer).save("mine", iteration=7)
    target = model(1)
    restored = torch.optim.SGD(target.parameters(), lr=0.5, momentum=0.9)
    checkpointer = DetectionCheckpointer(target, str(tmp_path), optimizer=restored)
    extra = checkpointer.resume_or_load("", resume=True)
    assert extra["iteration"] == 7 and checkpointer.get_checkpoint_file() == str(tmp_path / "mine.pth")
    assert equal(source, target)
    assert restored.param_groups[0]["lr"] == 0.1
    buffers = [
        o.state[p]["momentum_buffer"] for o, m in ((optimizer, source), (restored, target)) for p in m.parameters()
    ]
    assert all(torch.equal(a, b) for a, b in zip(buffers[:4], buffers[4:], strict=True))


def test_loading_nothing_keeps_the_weights():
    net = model(0)
    assert DetectionCheckpointer(net).load("") == {}
    assert equal(net, model(0))


def test_a_bare_state_dict_is_loaded(tmp_path):
    torch.save(model(0).state_dict(), tmp_path / "bare.pth")
    net = model(1)
    DetectionCheckpointer(net).load(str(tmp_path / "bare.pth"))
    assert equal(net, model(0))


def test_a_pickle_of_arrays_is_loaded_and_its_author_named(tmp_path, log):
    arrays = {k: v.numpy() for k, v in model(0).state_dict().items()}
    path = save_pickle(tmp_path / "zoo.pkl", {"model": arrays, "__author__": "somebody"})
    net = model(1)
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.INFO)
    logging.getLogger("vod2._d2lite").setLevel(logging.INFO)
    DetectionCheckpointer(net).load(path)
    assert equal(net, model(0)) and any("somebody" in message for message in log)


def test_matching_heuristics_finds_weights_by_the_end_of_their_name(tmp_path):
    ones = np.ones((2, 2), np.float32)
    data = {"model": {"weight": ones}, "__author__": "x", "matching_heuristics": True}
    net = model()
    before = net.head.weight.clone()
    DetectionCheckpointer(net).load(save_pickle(tmp_path / "short.pkl", data))
    assert torch.equal(net.backbone.weight, torch.ones(2, 2)) and torch.equal(net.head.weight, before)


def test_missing_unexpected_and_mismatched_weights_are_logged_and_skipped(tmp_path, log):
    state = model(0).state_dict()
    del state["backbone.bias"]
    state["head.bias"] = torch.zeros(4)
    state["neck.weight"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "odd.pth")
    net = model(1)
    DetectionCheckpointer(net).load(str(tmp_path / "odd.pth"))
    assert torch.equal(net.head.bias, model(1).head.bias)
    assert torch.equal(net.head.weight, model(0).head.weight)
    text = "\n".join(log)
    assert "head.bias" in text and "(4,)" in text and "backbone.bias" in text and "neck.weight" in text


def test_pixel_statistics_missing_in_a_checkpoint_are_not_reported(tmp_path, log):
    net = model()
    torch.save({"model": net.state_dict()}, tmp_path / "old.pth")
    net.register_buffer("pixel_mean", torch.zeros(3))
    DetectionCheckpointer(net).load(str(tmp_path / "old.pth"))
    assert not any("pixel_mean" in message for message in log)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises((AssertionError, FileNotFoundError), match="nowhere.pth"):
        DetectionCheckpointer(model()).load(str(tmp_path / "nowhere.pth"))


def test_nothing_is_saved_without_a_folder_or_on_request(tmp_path):
    DetectionCheckpointer(model()).save("a")
    DetectionCheckpointer(model(), str(tmp_path), save_to_disk=False).save("a")
    assert list(tmp_path.iterdir()) == []


def test_lite_reads_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(model(0).state_dict(), tmp_path / "w.safetensors")
    net = model(1)
    LiteCheckpointer(net).load(str(tmp_path / "w.safetensors"))
    assert equal(net, model(0))


def test_caffe2_weights_of_a_resnet_are_renamed(tmp_path):
    net = nn.Module()
    net.stem, net.res2 = nn.Module(), nn.Sequential(nn.Module())
    net.stem.conv1, net.res2[0].conv2 = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    net.res2[0].conv2.norm, net.stem.conv1.norm = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    names = ["conv1_w", "res_conv1_bn_s", "res2_0_branch2b_w", "res2_0_branch2b_bn_b", "conv1_w_momentum"]
    shapes = [(1, 1, 1, 1), (1,), (1, 1, 1, 1), (1,), (1, 1, 1, 1)]
    blobs = {n: np.full(s, i + 2, np.float32) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}
    whole = nn.Module()
    whole.backbone = net
    DetectionCheckpointer(whole).load(save_pickle(tmp_path / "R.pkl", {"blobs": blobs}))
    values = [net.stem.conv1.weight, net.stem.conv1.norm.weight, net.res2[0].conv2.weight, net.res2[0].conv2.norm.bias]
    assert [v.item() for v in values] == [2, 3, 4, 5]


def test_lite_refuses_a_weight_that_fits_two_names(tmp_path):
    data = {"model": {"bias": np.ones(2, np.float32)}, "__author__": "x", "matching_heuristics": True}
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="a.bias.*b.bias"):
        LiteCheckpointer(net).load(save_pickle(tmp_path / "two.pkl", data))


class Foreign:
    pass


def test_lite_refuses_files_that_could_run_code(tmp_path):
    torch.save({"model": {}, "extra": Foreign()}, tmp_path / "code.pth")
    for path in (save_pickle(tmp_path / "code.pkl", Foreign()), str(tmp_path / "code.pth")):
        with pytest.raises(ValueError, match=r"code\.p.*safely"):
            LiteCheckpointer(model()).load(path)


def test_lite_names_a_damaged_file(tmp_path):
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match="half.pth"):
        LiteCheckpointer(model()).load(str(tmp_path / "half.pth"))


def test_lite_refuses_to_save_classes_and_leaves_the_last_checkpoint_alone(tmp_path):
    checkpointer = LiteCheckpointer(model(0), str(tmp_path))
    checkpointer.save("m", iteration=1)
    with pytest.raises(TypeError, match="Foreign"):
        checkpointer.save("m", iteration=2, extra=Foreign())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "m.pth"]
    assert torch.load(tmp_path / "m.pth", weights_only=True)["iteration"] == 1


def test_lite_says_what_to_do_about_zoo_addresses():
    with pytest.raises(OSError, match="MODEL.WEIGHTS"):
        LiteCheckpointer(model()).load("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
