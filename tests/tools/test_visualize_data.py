"""Pictures of training data, from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vod2.data.synthetic import SyntheticConfig, write_synthetic

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("config_file", "source", "frames"),
    [("RDN", "annotation", 1), ("RDN", "dataloader", 3), ("SELSA", "dataloader", 3)],  # SELSA: and the key frame itself
)
def test_pictures_show_frames_side_by_side(tmp_path, monkeypatch, config_file, source, frames):
    config = SyntheticConfig(seed=3, train_videos=2, val_videos=0, frames=4, height=160, width=240, classes=6)
    write_synthetic(config, tmp_path / "synthetic")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [
        sys.executable,
        ROOT / "tools/visualize_data.py",
        "--config-file",
        ROOT / f"configs/quick/{config_file}.yaml",
    ]
    options = [
        "--source",
        source,
        "--output-dir",
        tmp_path / "out",
        "--num",
        "2",
        "--opts",
        "INPUT.MIN_SIZE_TRAIN",
        "(160,)",
    ]
    subprocess.run([*command, *options], check=True)
    pictures = [Image.open(path).size for path in sorted((tmp_path / "out").glob("*.png"))]
    # Doubled, as 160 pixels are small; 4 pixels between two frames.
    assert pictures == [(frames * 480 + (frames - 1) * 4, 320)] * 2
