"""Where Detectron2 is installed: a checkpoint written under one backend gives the same detections under the other."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None, reason="Detectron2 is not installed: there is no second backend"
)
SET = "--seed 3 --train-videos 4 --val-videos 2 --frames 8 --size 64x96 --classes 6".split()
OPTIONS = "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0 SEED 1".split()


def tool(backend: str, root: Path, name: str, *words: str) -> None:
    environment = os.environ | {
        "VOD2_D2": backend,
        "DETECTRON2_DATASETS": str(root),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "tools" / name), *words]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]


@pytest.mark.parametrize("config", ["FasterRCNN", "RDN", "RFCN"])
@pytest.mark.parametrize("writer", ["lite", "detectron2"])
def test_a_checkpoint_gives_the_same_detections_under_both_backends(tmp_path, config, writer):
    file = str(ROOT / "configs" / "quick" / f"{config}.yaml")
    tool(writer, tmp_path, "make_synthetic.py", "--output", str(tmp_path / "synthetic"), *SET)
    train = ("MODEL.WEIGHTS", "", "SOLVER.MAX_ITER", "12", "SOLVER.IMS_PER_BATCH", "4", "OUTPUT_DIR", "trained")
    tool(writer, tmp_path, "train_net.py", "--config-file", file, *OPTIONS, *train)
    found, average = {}, {}
    for backend in ("lite", "detectron2"):
        test = ("MODEL.WEIGHTS", "trained/model_final.pth", "OUTPUT_DIR", backend)
        tool(backend, tmp_path, "train_net.py", "--config-file", file, "--eval-only", *OPTIONS, *test)
        folder = tmp_path / backend / "inference" / "synthetic_val"
        found[backend] = dict(np.load(folder / "detections.npz"))
        average[backend] = json.loads((folder / "results.json").read_text())["vid"]["AP50"]
    assert average["lite"] == pytest.approx(average["detectron2"], abs=1e-4)
    lite, detectron2 = found["lite"], found["detectron2"]
    assert len(lite["scores"]) == len(detectron2["scores"]) > 0
    np.testing.assert_array_equal(lite["image"], detectron2["image"])
    np.testing.assert_array_equal(lite["labels"], detectron2["labels"])
    np.testing.assert_allclose(lite["boxes"], detectron2["boxes"], atol=1e-2)
    np.testing.assert_allclose(lite["scores"], detectron2["scores"], atol=1e-4)
