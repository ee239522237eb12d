"""Exported files in ONNX Runtime: part by part, and in streams, against the detector that they were made of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.exports import EXPORTED, assert_same_stream, bgr_video, cfg_with_weights
from helpers.models import IMAGE_SIZE
from vod2 import UserError, VideoPredictor
from vod2.export import FORMATS, Manifest, OnnxPredictor, Part, export_detector
from vod2.export.agreement import Agreement
from vod2.export.writing import write_part
from vod2.modeling.roi_heads.rfcn import position_sensitive_align
from vod2.ops import st_sampling

for _package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed: pip install 'vod2[export]'")

TOLERANCE = 1e-4
PIXELS = 1e-3  # of boxes, whose coordinates have 1e-5 in their last digit


# Their operators are tested alone, too, and their graphs by PyTorch in test_graphs.py.
_SLOW = ("R-FCN", "SELSA", "LSTS")
_EXPORTS: dict[str, tuple] = {}


def export_once(method: str, tmp_path_factory) -> tuple:
    """(configuration, folder, what the export said); an export takes seconds."""
    if method not in _EXPORTS:
        folder = tmp_path_factory.mktemp("export")
        cfg = cfg_with_weights(folder, EXPORTED[method])
        said = export_detector(cfg, folder / "out", IMAGE_SIZE, optimise=False)
        _EXPORTS[method] = cfg, folder / "out", said
    return _EXPORTS[method]


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in EXPORTED],
)
def exported(request, tmp_path_factory) -> tuple:
    return export_once(request.param, tmp_path_factory)


@pytest.fixture
def single(tmp_path_factory) -> Path:
    """A folder with the single frame detector."""
    return export_once("single", tmp_path_factory)[1]


def assert_agrees(found: Agreement) -> None:
    assert found.differences and not found.faults and found.missing == found.extra == 0
    for output, difference in found.differences.items():
        assert difference <= (PIXELS if output == "boxes" else TOLERANCE), (output, found)


def test_every_part_agrees_with_pytorch(exported):
    for part in exported[2].agreement.values():
        assert_agrees(part)


class _Pooling(nn.Module):
    """R-FCN's pooling."""

    def forward(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor]:
        return (position_sensitive_align(maps, [boxes], 3, 1 / 16, 2),)


class _Sampling(nn.Module):
    """LSTS's sampling."""

    def forward(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor]:
        return (st_sampling(maps, maps.flip(2), maps.flip(3), boxes[:, :2] / 16),)


@pytest.mark.parametrize("module", [_Pooling(), _Sampling()], ids=["R-FCN", "LSTS"])
def test_the_operators_of_other_methods_agree_with_pytorch(module, tmp_path):
    maps = torch.randn(1, 18, 4, 6, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[16.0, 8.0, 80.0, 60.0], [-40.0, -40.0, 20.0, 25.0], [9.0, 9.0, 9.0, 9.0]])
    part = Part("part", module, {"maps": maps, "boxes": boxes}, ("values",))
    assert_agrees(write_part(part, tmp_path / "part.onnx", "onnx", optimise=False))
    # Against the operators as they run in the detector, too.
    with torch.no_grad():
        assert torch.allclose(module(maps, boxes)[0], part.run()[0], atol=1e-4)


def test_streams_are_those_of_the_detector(exported):
    """The first frames, a whole window, a lost frame, the end; a video that is shorter than the window; two at once."""
    cfg, folder, _ = exported
    model, runner = VideoPredictor(cfg), OnnxPredictor(folder)
    frames = bgr_video(6)
    assert runner.lookahead == model.lookahead and runner.class_names == model.class_names == []
    assert_same_stream(model.stream(frames), runner.stream(frames))
    assert_same_stream(model.stream(frames[5:]), runner.stream(frames[5:]))
    with_gap = [*frames[:3], None, frames[4]]
    assert_same_stream(model.stream(with_gap), runner.stream(with_gap))
    streams = [runner.open("a"), runner.open("b")]
    found: list[list] = [[], []]
    for pair in zip(frames[:3], frames[3:], strict=True):
        for row, done in enumerate(runner.step_many(list(zip(streams, pair, strict=True)))):
            found[row] += done
    for row, stream in enumerate(streams):
        assert_same_stream(model.stream(frames[3 * row : 3 * row + 3]), found[row] + stream.flush())


def test_frames_are_resized_as_for_the_detector_and_boxes_scaled_back(exported):
    cfg, folder, _ = exported
    frames = [np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1) for frame in bgr_video(2)]
    assert_same_stream(VideoPredictor(cfg).stream(frames), OnnxPredictor(folder).stream(frames))


def test_a_frame_of_another_shape_is_refused_with_the_size_to_export(single):
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="64x64.* take 64x96: export the detector again with --size 64x64"):
        OnnxPredictor(single).step(frame)


def test_a_closed_runner_is_named(single):
    with OnnxPredictor(single) as runner:
        pass
    with pytest.raises(UserError, match="this OnnxPredictor is closed"):
        runner.open()


def broken(single, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(single, folder)
    change(folder)
    with pytest.raises(UserError) as error:
        OnnxPredictor(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewritten(**changes):
    def change(folder):
        content = json.loads((folder / "export.json").read_text())
        (folder / "export.json").write_text(json.dumps(content | changes))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "export.json").unlink(), "expected a folder that `vod2 export` has written"),
        (lambda folder: (folder / "export.json").write_text("{"), "is broken"),
        (lambda folder: (folder / "export.json").write_text("[1]"), "is broken"),
        (rewritten(format=2), "has the format 2, expected 1"),
        (rewritten(size=[64]), "is broken"),
        (rewritten(interval=2), "need a part 'between'"),
        (rewritten(parts={}), "none of which begins a frame"),
        (lambda folder: (folder / "detect.onnx").unlink(), "detect.onnx does not exist"),
        (lambda folder: (folder / "detect.onnx").write_bytes(b"\x08\x01"), "does not load in ONNX Runtime"),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml"),
    ],
)
def test_a_broken_folder_is_named(single, tmp_path, change, said):
    assert said in broken(single, tmp_path, change)


def without_input(folder):
    content = json.loads((folder / "export.json").read_text())
    content["parts"]["detect"]["inputs"] = []
    (folder / "export.json").write_text(json.dumps(content))


def test_an_input_that_is_missing_is_named(single, tmp_path):
    said = broken(single, tmp_path, without_input)
    assert "export.json: detect.onnx has the inputs [], expected 'image': export the detector again" in said


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(single):
    for provider in ("CUDAExecutionProvider", ("CUDAExecutionProvider", {"device_id": 0})):
        with pytest.raises(UserError, match=r"\['CUDAExecutionProvider'\] .*available are \[.*'CPUExecutionProvider'"):
            OnnxPredictor(single, providers=[provider, "CPUExecutionProvider"])
    assert OnnxPredictor(single, providers=["CPUExecutionProvider"]).lookahead == 0


def test_a_folder_of_torch_files_gives_what_the_detector_gives_and_is_refused_by_the_runner(tmp_path):
    cfg = cfg_with_weights(tmp_path, {})
    said = export_detector(cfg, tmp_path / "out", IMAGE_SIZE, form="torch")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.yaml", "detect.pt2", "export.json"]
    assert_agrees(said.agreement["detect"])
    with pytest.raises(UserError, match="--format onnx"):
        OnnxPredictor(tmp_path / "out")


def test_the_manifest_reads_back(single):
    manifest = Manifest.read(single)
    image = manifest.parts["detect"].input("image")
    assert (image.dtype, image.shape, manifest.interval, manifest.lookahead) == ("uint8", (1, 3, *IMAGE_SIZE), 0, 0)
    assert [output.name for output in manifest.parts["detect"].outputs] == ["boxes", "scores", "valid"]


def test_an_unknown_format_is_refused(tmp_path):
    assert set(FORMATS) == {"onnx", "torch"}
    with pytest.raises(UserError, match="format 'tflite': expected one of onnx, torch"):
        export_detector(cfg_with_weights(tmp_path, {}), tmp_path / "out", IMAGE_SIZE, form="tflite")
