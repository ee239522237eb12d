"""Random seeds."""

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python's, numpy's and torch's global generators; None draws a seed from the system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") % 2**31
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    # NumPy takes 32 bits
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    # For child processes: the hash seed of this one is already fixed
    os.environ["PYTHONHASHSEED"] = str(seed)
