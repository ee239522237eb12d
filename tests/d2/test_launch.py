"""Communication in one process, and over two processes on the CPU."""

import json
import os

import pytest
import torch
from torch import nn

from vod2._d2lite.engine import SimpleTrainer, create_ddp_model
from vod2._d2lite.engine import launch as lite_launch
from vod2._d2lite.utils import comm as lite_comm
from vod2.d2 import comm, launch


def test_a_single_process_is_its_own_world():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather({"a": 1}) == [{"a": 1}] and comm.gather("b") == ["b"]
    assert 0 <= comm.shared_random_seed() < 2**31
    values = {"x": torch.tensor(2.0)}
    assert comm.reduce_dict(values)["x"] == 2.0


def test_one_process_is_not_spawned():
    seen = []
    launch(seen.append, 1, args=(os.getpid(),))
    assert seen == [os.getpid()]


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"loss": (self.weight - x).square().sum()}


def _work(folder):
    """What each of two processes does; rank 0 writes what it saw."""
    torch.set_num_threads(1)
    c, rank = lite_comm, lite_comm.get_rank()
    model = create_ddp_model(Mean(), broadcast_buffers=False)
    trainer = SimpleTrainer(model, [torch.tensor([1.0 + 2 * rank])], torch.optim.SGD(model.parameters(), lr=0.25))
    trainer.train(0, 1)
    seen = {
        "world": [c.get_world_size(), c.get_local_size()],
        "all": c.all_gather({"rank": rank, "local": c.get_local_rank()}),
        "gathered": c.gather(rank * 10),
        "on_one": c.gather(rank, dst=1),
        "seeds": len(set(c.all_gather(c.shared_random_seed()))),
        "mean": c.reduce_dict({"x": torch.tensor(float(rank)), "y": torch.tensor(4.0)}),
        "sum": c.reduce_dict({"x": torch.tensor(float(rank + 1))}, average=False),
        "weights": c.all_gather(model.module.weight.item()),
    }
    if rank == 0:
        seen["loss"] = trainer.storage.latest()["loss"][0]
        seen["mean"] = {k: v.item() for k, v in seen["mean"].items()}
        seen["sum"] = {k: v.item() for k, v in seen["sum"].items()}
        with open(os.path.join(folder, "seen.json"), "w") as f:
            json.dump(seen, f)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would use the GPUs")
def test_lite_launches_two_processes_on_the_cpu_that_train_and_gather_together(tmp_path):
    lite_launch(_work, 2, dist_url="auto", args=(str(tmp_path),))
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["world"] == [2, 2]
    assert seen["all"] == [{"rank": 0, "local": 0}, {"rank": 1, "local": 1}]
    assert seen["gathered"] == [0, 10] and seen["on_one"] == []
    assert seen["seeds"] == 1
    assert seen["mean"] == {"x": 0.5, "y": 4.0} and seen["sum"] == {"x": 3.0}
    # x = 1 and 3: losses 1 and 9; gradients -2 and -6, on average -4
    assert seen["loss"] == 5.0 and seen["weights"] == [1.0, 1.0]


def _fail():
    if lite_comm.get_rank() == 1:
        raise RuntimeError("rank 1 is broken")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would use the GPUs")
def test_lite_reports_the_error_of_a_process():
    with pytest.raises(Exception, match="rank 1 is broken"):
        lite_launch(_fail, 2, dist_url="auto")


def test_lite_does_not_choose_an_address_for_several_machines():
    with pytest.raises(ValueError, match="2 machines"):
        lite_launch(print, 1, num_machines=2, dist_url="auto")
