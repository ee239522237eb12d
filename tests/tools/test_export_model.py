"""The command line of tools/export_model.py: what it refuses, before anything is built, and what it writes."""

import pytest

from helpers.exports import cfg_with_weights
from helpers.models import ROOT
from vod2 import UserError
from vod2.commands.export import image_size, main, require_folder
from vod2.export import Manifest, session
from vod2.export.manifest import PartSpec


@pytest.mark.parametrize("text", ["600", "600x", "0x64", "16x64", "9000x64", "64X96", "64x96x3", "1e3x64", "-64x96"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="expected HEIGHTxWIDTH"):
        image_size(text)


def test_a_size():
    assert image_size("562x1000") == (562, 1000)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("of a training")
    with pytest.raises(UserError, match="exists and is no export"):
        require_folder(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="exists and is no export"):
        require_folder(tmp_path / "config.yaml", overwrite=True)


def test_a_new_or_empty_folder_is_taken(tmp_path):
    assert require_folder(tmp_path, False) == require_folder(tmp_path / "new", False) == []


def test_what_is_missing_is_told_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx and onnxscript and onnxruntime, .* pip install 'vod2\[export\]'"):
        main(["--config-file", "quick/RDN.yaml", "--size", "64x96", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_not_exported_writes_nothing(tmp_path):
    words = ["--config-file", "quick/MEGA.yaml", "--size", "64x96", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="cannot be exported: expected no aggregator, one of .*RDNAggregator"):
        main([*words, "--format", "torch", "--opts", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    assert not (tmp_path / "out").exists()


def test_an_export_is_replaced_only_when_asked_to_and_leaves_no_part_behind(tmp_path, capsys):
    cfg = cfg_with_weights(tmp_path, {})
    (tmp_path / "tiny.yaml").write_text(cfg.dump())
    folder = tmp_path / "out"
    folder.mkdir()
    old = Manifest((64, 96), 0, 3, (), {"between": PartSpec("between.onnx", (), ())})
    (folder / "export.json").write_text(old.text())
    (folder / "between.onnx").write_bytes(b"old")
    words = ["--config-file", str(tmp_path / "tiny.yaml"), "--size", "64x96", "--output", str(folder)]
    with pytest.raises(UserError, match="replace it with --overwrite"):
        main([*words, "--format", "torch"])
    main([*words, "--format", "torch", "--overwrite"])
    assert f"Wrote {folder / 'detect.pt2'}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "detect.pt2", "export.json"]


def test_the_extras_name_what_the_command_asks_for():
    setup = (ROOT / "setup.py").read_text()
    for package in ("onnx", "onnxscript", "onnxruntime"):
        assert setup.count(f'"{package}"') == 2, f"{package} belongs to the extras export and test"
