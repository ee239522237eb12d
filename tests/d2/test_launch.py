"""Communication in one process, and over two processes on the CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

from vod2._d2lite.engine import launch as lite_launch
from vod2.d2 import comm, launch

WORK = """
import json, sys
import torch
from torch import nn
from vod2._d2lite.engine import SimpleTrainer, create_ddp_model, launch
from vod2._d2lite.utils import comm

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"loss": (self.weight - x).square().sum()}

def work(path):
    torch.set_num_threads(1)
    rank = comm.get_rank()
    model = create_ddp_model(Mean(), broadcast_buffers=False)
    trainer = SimpleTrainer(model, [torch.tensor([1.0 + 2 * rank])], torch.optim.SGD(model.parameters(), lr=0.25))
    trainer.train(0, 1)
    mean = comm.reduce_dict({"x": torch.tensor(float(rank)), "y": torch.tensor(4.0)})
    total = comm.reduce_dict({"x": torch.tensor(float(rank + 1))}, average=False)
    seen = {
        "world": [comm.get_world_size(), comm.get_local_size()],
        "all": comm.all_gather({"rank": rank, "local": comm.get_local_rank()}),
        "gathered": comm.gather(rank * 10),
        "on_one": comm.gather(rank, dst=1),
        "seeds": len(set(comm.all_gather(comm.shared_random_seed()))),
        "mean": {name: value.item() for name, value in mean.items()},
        "sum": {name: value.item() for name, value in total.items()},
        "weights": comm.all_gather(model.module.weight.item()),
    }
    if comm.is_main_process():
        with open(path, "w") as f:
            json.dump({**seen, "loss": trainer.storage.latest()["total_loss"][0]}, f)

if __name__ == "__main__":
    launch(work, 2, dist_url="auto", args=(sys.argv[1],))
"""

FAIL = """
from vod2._d2lite.engine import launch
from vod2._d2lite.utils import comm

def fail():
    if comm.get_rank() == 1:
        raise RuntimeError("rank 1 is broken")

if __name__ == "__main__":
    launch(fail, 2)
"""

on_the_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would use the GPUs")


def run_script(folder, text, *args):
    """Run ``text`` as a program: the processes that it spawns import it again."""
    (folder / "program.py").write_text(text)
    path = os.pathsep.join(entry for entry in [os.getcwd(), *sys.path] if entry)
    return subprocess.run(
        [sys.executable, str(folder / "program.py"), *args],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_single_process_is_its_own_world():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather({"a": 1}) == [{"a": 1}] and comm.gather("b") == ["b"]
    assert 0 <= comm.shared_random_seed() < 2**31
    assert comm.reduce_dict({"x": torch.tensor(2.0)})["x"] == 2.0


def test_one_process_is_not_spawned():
    seen = []
    launch(seen.append, 1, args=(os.getpid(),))
    assert seen == [os.getpid()]


@on_the_cpu
def test_lite_launches_two_processes_on_the_cpu_that_train_and_gather_together(tmp_path):
    done = run_script(tmp_path, WORK, str(tmp_path / "seen.json"))
    assert done.returncode == 0, done.stderr
    assert "2 processes on the CPU" in done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["world"] == [2, 2]
    assert seen["all"] == [{"rank": 0, "local": 0}, {"rank": 1, "local": 1}]
    assert seen["gathered"] == [0, 10] and seen["on_one"] == []
    assert seen["seeds"] == 1
    assert seen["mean"] == {"x": 0.5, "y": 4.0} and seen["sum"] == {"x": 3.0}
    # x = 1 and 3: losses 1 and 9; gradients -2 and -6, on average -4
    assert seen["loss"] == 5.0 and seen["weights"] == [1.0, 1.0]


@on_the_cpu
def test_lite_reports_the_error_of_a_process(tmp_path):
    done = run_script(tmp_path, FAIL)
    assert done.returncode != 0 and "rank 1 is broken" in done.stderr


def test_lite_does_not_choose_an_address_for_several_machines():
    with pytest.raises(ValueError, match="2 machines"):
        lite_launch(print, 1, num_machines=2, dist_url="auto")
