"""Files of graphs, in PyTorch's own format: what is in them. Without ONNX."""

import pytest
import torch

from helpers.exports import RDN_KEYS, cfg_with_weights
from helpers.models import IMAGE_SIZE
from vod2 import UserError
from vod2.export import export_detector, writing


def test_a_file_holds_the_weights_of_its_part_alone(tmp_path):
    cfg = cfg_with_weights(tmp_path, RDN_KEYS)
    said = export_detector(cfg, tmp_path / "out", IMAGE_SIZE, form="torch")
    for part in said.agreement.values():
        assert part.differences and not part.faults
    files = {name: tmp_path / "out" / f"{name}.pt2" for name in ("frame", "aggregate")}
    names = {name: set(torch.export.load(file).state_dict) for name, file in files.items()}
    weights = set(torch.load(tmp_path / "weights.pth", weights_only=True)["model"])
    assert {name.removeprefix("model.") for name in names["frame"] | names["aggregate"]} <= weights
    assert not any("backbone" in name or "proposal_generator" in name for name in names["aggregate"])
    assert any("aggregator" in name for name in names["aggregate"])
    assert not any("aggregator" in name or "box_predictor" in name for name in names["frame"])


def test_weights_that_an_onnx_file_cannot_hold_are_counted_without_those_of_other_parts(monkeypatch):
    class Large(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = torch.nn.Linear(4, 4), torch.nn.Linear(100, 100)

        def forward(self, values):
            return (self.used(values),)

    part = writing.Part("part", Large(), {"values": torch.ones(2, 4)}, ("values",))
    program = writing.traced(part)
    assert sorted(program.state_dict) == ["used.bias", "used.weight"]
    writing._require_small(part, program)
    assert torch.equal(program.module()(torch.ones(2, 4))[0], part.run()[0])
    monkeypatch.setattr(writing, "_MAX_BYTES", 79)  # of 4 * 4 + 4 numbers
    with pytest.raises(UserError, match="an ONNX file holds 2 GiB: give --format torch"):
        writing._require_small(part, program)
