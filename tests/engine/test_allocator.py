"""`keep_freed_memory`: what tensors give back is not mapped anew, unless the user has other wishes."""

import os
import subprocess
import sys

import pytest

from vod2.engine import keep_freed_memory

# Page faults of filling a block of 64 MiB again: the fewest of seven times, as the C library may place the first few
# blocks behind one another where something small that lives on was allocated between them.
CODE = """
import resource, sys
import torch
from vod2.engine import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[1:]))
"""


def run(word: str, **environment: str) -> tuple[str, int]:
    plain = {name: value for name, value in os.environ.items() if name[:7] not in ("MALLOC_", "GLIBC_T")}
    words = [sys.executable, "-c", CODE, word]
    out = subprocess.run(words, env=plain | environment, capture_output=True, text=True, check=True).stdout
    kept, faults = out.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of glibc")
def test_a_freed_block_is_used_again():
    assert run("keep")[1] < 100
    # Each page of 4 KiB, or of 2 MiB where the system has such ones.
    assert run("leave")[1] > 30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of glibc")
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"])
def test_settings_of_the_user_stay(name):
    assert run("keep", **{name: "65536"})[0] == "False"


def test_it_does_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()
