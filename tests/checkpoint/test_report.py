"""What a training that begins from other weights says of them: loaded, new, of another shape, unused."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vod2 import UserError
from vod2.checkpoint import LoadReport, load_initial_weights, load_weights

FORMATS = ["pth", "safetensors", "pkl"]


def make_model(seed: int = 0, classes: int = 3) -> nn.Module:
    """backbone.stem 4x3 + 4, roi_heads.box_head 5x4 + 5, roi_heads.predictor classes x 5 + classes."""
    torch.manual_seed(seed)
    model = nn.Module()
    model.backbone, model.roi_heads = nn.Module(), nn.Module()
    model.backbone.stem = nn.Linear(3, 4)
    model.roi_heads.box_head = nn.Linear(4, 5)
    model.roi_heads.predictor = nn.Linear(5, classes)
    return model


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def save(folder: Path, kind: str, state: dict[str, Tensor], **extra) -> str:
    path = folder / f"weights.{kind}"
    if kind == "pth":
        torch.save({"model": state, "iteration": 7}, path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", **extra}))
    return str(path)


def counts(report: LoadReport) -> tuple[int, int, int, int]:
    return len(report.loaded), len(report.new), len(report.other_shape), len(report.unused)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_tensor_is_loaded_new_of_another_shape_or_unused(tmp_path, kind):
    state = copy_of(make_model(seed=1, classes=7))
    del state["roi_heads.box_head.bias"]
    state["mask_head.weight"] = torch.ones(2, 2)
    model, before = make_model(seed=0), copy_of(make_model(seed=0))
    report = load_initial_weights(model, save(tmp_path, kind, state))
    assert list(report.loaded) == ["backbone.stem.weight", "backbone.stem.bias", "roi_heads.box_head.weight"]
    assert report.new == {"roi_heads.box_head.bias": (5,)}
    assert report.other_shape == {
        "roi_heads.predictor.weight": ((7, 5), (3, 5)),
        "roi_heads.predictor.bias": ((7,), (3,)),
    }
    assert report.unused == {"mask_head.weight": (2, 2)}
    assert report.share == 36 / 59
    for name, value in model.state_dict().items():
        assert value.equal(state[name] if name in report.loaded else before[name]), name


@pytest.mark.parametrize("kind", FORMATS)
def test_the_log_has_a_row_for_each_group_and_ends_in_one_sentence(tmp_path, kind, caplog):
    state = copy_of(make_model(seed=1, classes=7))
    del state["roi_heads.box_head.bias"]
    state["mask_head.weight"] = torch.ones(2, 2)
    path = save(tmp_path, kind, state)
    with caplog.at_level(logging.INFO, logger="vod2.checkpoint"):
        load_initial_weights(make_model(), path)
    (record,) = [one for one in caplog.records if one.name == "vod2.checkpoint"]
    lines = record.getMessage().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line]
    assert rows[1:] == [
        ["backbone", "2 tensors, 16", "", "", ""],
        ["mask_head", "", "", "", "1 tensor, 4"],
        ["roi_heads.box_head", "1 tensor, 20", "1 tensor, 5", "", ""],
        ["roi_heads.predictor", "", "", "2 tensors, 18", ""],
    ]
    assert "roi_heads.predictor.weight: (7, 5) in the file, (3, 5) in the model" in lines
    assert lines[-1] == (
        f"3 of 6 tensors (61.0% of the numbers) loaded from {path}; new: roi_heads.box_head (1 tensor, 5); of another "
        "shape: roi_heads.predictor (2 tensors, 18); unused of the file: mask_head (1 tensor, 4)"
    )


def test_all_that_fits_is_one_row_for_each_module_and_nothing_else_is_told(tmp_path):
    report = load_initial_weights(make_model(), save(tmp_path, "pth", copy_of(make_model(1))))
    assert counts(report) == (6, 0, 0, 0)
    assert report.summary() == f"6 of 6 tensors (100.0% of the numbers) loaded from {report.path}"
    assert [line.split("|")[0].strip() for line in report.table().splitlines()[2:-1]] == ["backbone", "roi_heads"]


def test_large_numbers_are_short():
    report = LoadReport("a.pth", {"a.weight": (2000, 1550)}, {"b.weight": (1240,)}, {}, {})
    assert " a        | 1 tensor, 3.1 M |" in report.table()
    assert report.summary() == "1 of 2 tensors (99.9% of the numbers) loaded from a.pth; new: b (1 tensor, 1.2 k)"


def test_at_most_ten_shapes_are_named():
    report = LoadReport("a.pth", {}, {}, {f"a.{i}.weight": ((1,), (2,)) for i in range(13)}, {})
    assert report.table().count("in the file, ") == 10 and "and 3 more of another shape" in report.table()


def test_names_of_a_zoo_file_are_matched_by_their_ends(tmp_path):
    state = {"stem.weight": torch.ones(4, 3), "stem.bias": torch.ones(9), "fc.weight": torch.ones(1)}
    model = make_model()
    report = load_initial_weights(model, save(tmp_path, "pkl", state, matching_heuristics=True))
    assert report.loaded == {"backbone.stem.weight": (4, 3)}
    assert report.other_shape == {"backbone.stem.bias": ((9,), (4,))}
    assert report.unused == {"fc.weight": (1,)}
    assert model.backbone.stem.weight.equal(torch.ones(4, 3))


def test_the_old_names_of_a_resnet_are_converted(tmp_path):
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.stem = nn.Module()
    model.backbone.stem.conv1 = nn.Conv2d(1, 1, 1, bias=False)
    path = tmp_path / "R.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.full((1, 1, 1, 1), 5.0, np.float32)}}))
    report = load_initial_weights(model, str(path))
    assert counts(report) == (1, 0, 0, 0) and model.backbone.stem.conv1.weight.item() == 5


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_any_tensor_of_the_backbone_is_refused(tmp_path, kind):
    state = {name: value for name, value in copy_of(make_model(1)).items() if not name.startswith("backbone")}
    state["backbone.stem.weight"] = torch.zeros(8, 3)
    model, before = make_model(), copy_of(make_model())
    path = save(tmp_path, kind, state)
    with pytest.raises(UserError, match="none of the 2 tensors of the backbone fits") as error:
        load_initial_weights(model, path)
    assert path in str(error.value) and "(8, 3)" in str(error.value) and "MODEL.WEIGHTS" in str(error.value)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_file_that_fits_little_is_a_warning_that_says_what_to_check(tmp_path, caplog):
    load_initial_weights(make_model(), save(tmp_path, "pth", {"backbone.stem.bias": torch.ones(4)}))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "only 6.8%" in warning and "MODEL.RESNETS" in warning


def test_a_file_of_the_whole_backbone_is_no_warning(tmp_path, caplog):
    state = {name: value for name, value in copy_of(make_model(1)).items() if name.startswith("backbone")}
    report = load_initial_weights(make_model(), save(tmp_path, "pth", state))
    assert set(report.new) == {name for name in make_model().state_dict() if name.startswith("roi_heads")}
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_counters_and_buffers_that_are_not_saved_are_left_out(tmp_path):
    model = make_model()
    model.backbone.norm = nn.BatchNorm1d(4)
    model.register_buffer("pixel_mean", torch.zeros(3), persistent=False)
    state = copy_of(model) | {"pixel_mean": torch.ones(3)}
    del state["backbone.norm.num_batches_tracked"]
    report = load_initial_weights(model, save(tmp_path, "pth", state))
    assert counts(report) == (10, 0, 0, 0) and model.pixel_mean.equal(torch.zeros(3))


def test_the_prefix_of_distributed_training_is_taken_off(tmp_path):
    state = {f"module.{name}": value for name, value in copy_of(make_model(1)).items()}
    assert counts(load_initial_weights(make_model(), save(tmp_path, "pth", state))) == (6, 0, 0, 0)


def test_no_weights_are_no_report(caplog):
    with caplog.at_level(logging.INFO, logger="vod2.checkpoint"):
        assert load_initial_weights(make_model(), "") is None
    assert "random weights" in caplog.text


@pytest.mark.parametrize("kind", FORMATS)
def test_a_detector_takes_every_format_and_needs_all_of_it(tmp_path, kind):
    model, state = make_model(), copy_of(make_model(1))
    load_weights(model, save(tmp_path, kind, state))
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    del state["backbone.stem.bias"]
    with pytest.raises(UserError, match="1 of 6 parameters are missing, for example 'backbone.stem.bias'"):
        load_weights(model, save(tmp_path, kind, state))


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"model": 3})])
def test_a_broken_zoo_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_initial_weights(make_model(), str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
