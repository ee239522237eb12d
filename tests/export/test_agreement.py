"""What is told of a file that differs from PyTorch, and what is done about it. Without ONNX."""

import pytest
import torch

from helpers.exports import cfg_with_weights
from helpers.models import IMAGE_SIZE
from vod2 import UserError
from vod2.commands.export import main
from vod2.export import export_detector, writing
from vod2.export.agreement import LIMITS, agreement

ALL = torch.tensor([True, True])
BOXES = torch.tensor([[0.0, 0, 8, 8], [9, 9, 20, 20]])
SCORES = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
RIGHT = {"boxes": BOXES, "scores": SCORES, "valid": ALL}


def test_rows_in_another_order_are_the_same():
    found = agreement(RIGHT, {"boxes": BOXES.flip(0) + 0.01, "scores": SCORES.flip(0) + 0.001, "valid": ALL})
    assert (found.rows, found.missing, found.extra, found.faults) == (2, 0, 0, ())
    assert found.differences == pytest.approx({"boxes": 0.01, "scores": 0.001}, abs=1e-5)
    assert str(found) == "differs from PyTorch by at most: boxes 1.0e-02, scores 1.0e-03"


def test_a_file_whose_boxes_are_all_others_has_no_differences_and_faults():
    found = agreement(RIGHT, RIGHT | {"boxes": BOXES + 50})
    assert (found.differences, found.rows, found.missing, found.extra) == ({}, 2, 2, 2)
    assert found.faults == ("of 2 boxes 2 are missing, and 2 are others",)
    assert "nothing to compare; 2 of 2 boxes are missing, 2 are others" in str(found)


def test_rows_that_the_file_alone_has_are_counted():
    first = torch.tensor([True, False])
    found = agreement(RIGHT | {"valid": first}, RIGHT)
    assert (found.rows, found.missing, found.extra, len(found.faults)) == (1, 0, 1, 1)
    twice = agreement(RIGHT | {"valid": first}, RIGHT | {"boxes": BOXES[[0, 0]]})
    assert (twice.missing, twice.extra, len(twice.faults)) == (0, 1, 1)
    none = agreement(RIGHT, RIGHT | {"valid": ~ALL})
    assert (none.differences, none.missing, none.extra, len(none.faults)) == ({}, 2, 0, 1)
    assert agreement(RIGHT | {"valid": ~ALL}, RIGHT).faults


def test_one_of_forty_boxes_may_be_another():
    boxes, valid = torch.arange(160.0).reshape(40, 4), torch.ones(40, dtype=torch.bool)
    for others, faults in ((1, 0), (2, 1)):  # each is missing, and extra
        moved = boxes.clone()
        moved[:others] += 1000
        found = agreement({"boxes": boxes, "valid": valid}, {"boxes": moved, "valid": valid})
        assert (found.missing, found.extra, len(found.faults)) == (others, others, faults)
        assert found.differences == {"boxes": 0.0}


def test_without_boxes_there_is_nothing_to_compare_but_maps():
    none = RIGHT | {"valid": ~ALL}
    assert agreement(none, none)[:4] == ({}, 0, 0, 0) and not agreement(none, none).faults
    assert str(agreement(none, none)) == "was not compared: on noise there is nothing to compare"
    maps = {"new_memory": torch.full((1, 2, 2, 2), 4.0)}
    found = agreement(none | maps, none | {"new_memory": maps["new_memory"] + 1})
    assert found.differences == {"new_memory": 1.0} and "at most 0.08 is expected" in found.faults[0]


@pytest.mark.parametrize("wrong", [0.5 + 2 * LIMITS["scores"], torch.nan, torch.inf])
def test_numbers_that_are_too_far_are_faults(wrong):
    scores = SCORES.clone()
    scores[0, 0] = wrong
    for first, second in ((SCORES, scores), (scores, SCORES)):
        (fault,) = agreement({"scores": first}, {"scores": second}).faults
        assert fault.startswith("scores differs by")
    assert not agreement({"scores": scores}, {"scores": scores.clone()}).faults


def test_another_shape_is_a_fault():
    assert agreement({"scores": SCORES}, {"scores": SCORES[:1]}).faults == (
        "scores has the shape (1, 2), expected (2, 2)",
    )


def test_a_wrong_file_ends_the_command_and_is_not_put_in_place(tmp_path, monkeypatch, capsys):
    """PyTorch's own run, which a file is compared with, is made another."""
    true_run = writing.Part.run

    def shifted(part):
        boxes, scores, valid = true_run(part)
        return boxes + 20, scores, valid

    monkeypatch.setattr(writing.Part, "run", shifted)
    cfg = cfg_with_weights(tmp_path, {})
    with pytest.raises(UserError, match=r"detect.pt2 does not give .* nothing was put into .*: of 16 boxes"):
        export_detector(cfg, tmp_path / "out", IMAGE_SIZE, form="torch")
    assert not (tmp_path / "out").exists()
    (tmp_path / "tiny.yaml").write_text(cfg.dump())
    words = ["--config-file", str(tmp_path / "tiny.yaml"), "--size", "64x96", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="16 are missing, and 16 are others"):
        main([*words, "--format", "torch"])
    assert "Wrote" not in capsys.readouterr().out
