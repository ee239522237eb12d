"""Communication between the processes of one job; all of it also works in a single one, without torch.distributed."""

import functools

import numpy as np
import torch
import torch.distributed as dist

_local_size = 1  # processes on this machine


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Tell how many processes each machine has, numbered machine after machine. `launch` does so."""
    global _local_size
    _local_size = num_workers_per_machine


def get_local_rank() -> int:
    """The rank within this machine."""
    return get_rank() % get_local_size()


def get_local_size() -> int:
    """The number of processes on this machine."""
    return _local_size if _distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


# Cached, because creating a group is a collective operation
@functools.lru_cache
def _gloo_group():
    """A group of all processes that carries CPU objects, which NCCL does not."""
    return dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


def all_gather(data, group=None) -> list:
    """Picklable ``data`` of every process, in the order of the ranks."""
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data, dst: int = 0, group=None) -> list:
    """Picklable ``data`` of every process on rank ``dst``, an empty list on the others."""
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    is_dst = dist.get_rank() == dst
    gathered: list = [None] * dist.get_world_size(group) if is_dst else []
    dist.gather_object(data, gathered if is_dst else None, dst=dst, group=group)
    return gathered


def shared_random_seed() -> int:
    """A seed in [0, 2**31) drawn from numpy's global state and equal in every process. Every process must call it."""
    # Every process draws, which keeps their generators in step; the number of rank 0 counts
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum or average scalar tensors over the processes, which all have the same keys; only rank 0 holds the result."""
    world = get_world_size()
    if world == 1:
        return input_dict
    with torch.no_grad():
        # Reduced by position, and processes may fill their dicts in different orders
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        return dict(zip(names, values / world if average else values, strict=True))
