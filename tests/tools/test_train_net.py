"""The command line of training: mistakes end in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vod2.d2 import build_model
from vod2.engine import load_config

ROOT = Path(__file__).resolve().parents[2]
QUICK = str(ROOT / "configs" / "quick" / "RDN.yaml")
SINGLE_FRAME = str(ROOT / "configs" / "quick" / "FasterRCNN.yaml")
TINY = ["MODEL.NARROW_RESNET.CHANNELS", "[8,12,16,24]", "MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.DEVICE", "cpu"]


def train_net(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(folder)}
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def assert_one_sentence(done: subprocess.CompletedProcess, *named: str) -> None:
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    for name in named:
        assert name in last


def test_a_missing_dataset_folder_is_named_with_the_command_that_makes_it(tmp_path):
    done = train_net(tmp_path, "--config-file", QUICK, "MODEL.WEIGHTS", "")
    assert_one_sentence(done, "synthetic", "make_synthetic.py")


def test_an_unknown_key_is_named(tmp_path):
    done = train_net(tmp_path, "--config-file", QUICK, "MODEL.RELATION_HEADS", "16")
    assert_one_sentence(done, "MODEL.RELATION_HEADS")


def test_an_unknown_key_in_a_file_is_named_with_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(f'_BASE_: "{QUICK}"\nMODEL:\n  NO_SUCH_KEY: 1\n')
    done = train_net(tmp_path, "--config-file", "mine.yaml")
    assert_one_sentence(done, "mine.yaml", "NO_SUCH_KEY")


def make_synthetic(folder: Path) -> None:
    words = "--output synthetic --train-videos 1 --val-videos 1 --frames 2 --size 64x96 --classes 6".split()
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_synthetic.py"), *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "mode", [pytest.param((), id="train"), pytest.param(("--eval-only",), id="eval", marks=pytest.mark.slow)]
)
def test_missing_weights_are_named_with_the_remedy(tmp_path, mode):
    make_synthetic(tmp_path)
    done = train_net(tmp_path, "--config-file", QUICK, *mode, "MODEL.WEIGHTS", "nowhere.pth")
    assert_one_sentence(done, "nowhere.pth", "MODEL.WEIGHTS")


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    torch.save({"model": {"backbone.stem.conv1.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    done = train_net(tmp_path, "--config-file", QUICK, "--eval-only", "MODEL.WEIGHTS", "other.pth")
    assert_one_sentence(done, "other.pth", "another model")


def test_a_context_is_for_evaluation(tmp_path):
    done = train_net(tmp_path, "--config-file", QUICK, "--context", "none")
    assert_one_sentence(done, "--context", "--eval-only")


def test_an_evaluation_without_context_is_written_beside_the_own_one(tmp_path):
    make_synthetic(tmp_path)
    torch.save({"model": build_model(load_config(QUICK, TINY)).state_dict()}, tmp_path / "rdn.pth")
    opts = [*TINY, "MODEL.WEIGHTS", "rdn.pth", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", "out"]
    done = train_net(tmp_path, "--config-file", QUICK, "--eval-only", "--context", "none", *opts)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "inference").iterdir()
    assert folder.name == "synthetic_val_none"
    assert json.loads((folder / "results.json").read_text())["context"] == "none"


def test_a_training_from_a_single_frame_tells_that_only_the_aggregator_is_new(tmp_path):
    make_synthetic(tmp_path)
    single = build_model(load_config(SINGLE_FRAME, TINY)).state_dict()
    torch.save({"model": single}, tmp_path / "single.pth")
    words = [*TINY, "MODEL.WEIGHTS", "single.pth", "SOLVER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "0"]
    done = train_net(tmp_path, "--config-file", QUICK, *words, "DATASETS.TEST", "()", "OUTPUT_DIR", "out")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    (sentence,) = [line for line in log.splitlines() if "loaded from single.pth" in line]
    loaded = sum(not name.endswith("num_batches_tracked") for name in single)
    assert re.match(rf"{loaded} of \d+ tensors \(\d+\.\d% of the numbers\)", sentence)
    assert re.search(r"; new: roi_heads\.aggregator \(\d+ tensors, [^)]*\)$", sentence)


def test_another_test_setting_is_not_trained_from_the_last_weights_of_its_training(tmp_path):
    done = train_net(tmp_path, "--config-file", f"{ROOT}/configs/ablations/rdn.yaml:T3")
    assert_one_sentence(done, "rdn.yaml:T3 is RDN_R101 with other settings in inference: give --eval-only")


def test_a_test_setting_is_evaluated_with_the_weights_that_its_training_leaves(tmp_path):
    done = train_net(tmp_path, "--config-file", f"{ROOT}/configs/ablations/rdn.yaml:T3", "--eval-only")
    assert_one_sentence(done, "output/RDN_R101/model_final.pth")
