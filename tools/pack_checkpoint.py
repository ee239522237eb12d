#!/usr/bin/env python3
"""Put the final weights of a training among those that come with vod2, in half the space.

    python tools/pack_checkpoint.py output/vod_synth/RDN/model_final.safetensors vod_synth/RDN

Kernels and matrices are stored as float16, everything else as it is; models have float32 numbers all the same. Evaluate
the result before it is committed, and describe it in vod2/checkpoints/README.md.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from vod2.checkpoint.files import read_weights, stored_classes, write_weights
from vod2.engine import cli
from vod2.errors import UserError
from vod2.package_files import CHECKPOINTS, config_names

MOST_BYTES = 10_000_000


def halved(tensor: Tensor) -> Tensor:
    """Float16 of a kernel or matrix; biases, statistics and numbers beyond float16 stay as they are."""
    if tensor.ndim < 2 or tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if half.isfinite().all() else tensor


def pack(source: Path, name: str) -> Path:
    """Write the weights under the name of their configuration.

    Raises:
        UserError: there is no such configuration, weights of this name are there already, or the file is too large.
    """
    if f"{name}.yaml" not in config_names():
        raise UserError(f"there is no configuration {name!r}: expected one such as vod_synth/RDN, without .yaml")
    target = CHECKPOINTS / f"{name}.safetensors"
    if target.exists():
        raise UserError(f"{target} exists: delete it first if it is to be replaced")
    tensors = {key: halved(tensor) for key, tensor in read_weights(source).items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MOST_BYTES:
        raise UserError(f"{source} has {size:,} bytes in half the space, expected at most {MOST_BYTES:,}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_weights(target, tensors, classes=stored_classes(source))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, metavar="FILE", help="the .safetensors file of a training")
    parser.add_argument("name", metavar="NAME", help="of its configuration, such as vod_synth/RDN")
    args = parser.parse_args()
    target = pack(args.weights, args.name)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
