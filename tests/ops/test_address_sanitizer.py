"""The compiled ops under AddressSanitizer: no read or write outside a tensor, at any coordinates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.models import ROOT

pytestmark = pytest.mark.slow

FOLDERS = ("vod2", "projects", "tests", "configs", "tools")
# As setup.py builds them, but quicker to compile, and watched.
BUILD = """
from pathlib import Path
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
sources = sorted(map(str, Path("vod2/csrc").rglob("*.cpp")))
flags = ["-O1", "-g1", "-std=c++17", "-fopenmp", "-fno-omit-frame-pointer", "-fsanitize=address"]
ops = CppExtension("vod2._C", sources, extra_compile_args=flags, extra_link_args=["-fsanitize=address"])
build = BuildExtension.with_options(use_ninja=False)
setup(name="ops", packages=[], ext_modules=[ops], cmdclass={"build_ext": build}, script_args=["build_ext", "--inplace"])
"""
# Reads one element behind an allocation, by way of a function that AddressSanitizer watches.
OVERFLOW = "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; ctypes.string_at(c.malloc(8), 9)"


def library_of_sanitizer() -> str:
    """The path of libasan.so, which is loaded before Python; skips where the compiler has none."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to build the ops with")
    path = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():  # the bare name, where there is no such library
        pytest.skip("this g++ has no AddressSanitizer")
    return path


def watched(arguments: list[str], library: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "LD_PRELOAD": library,
        # What Python and PyTorch keep until they end is no leak of the ops.
        "ASAN_OPTIONS": "detect_leaks=0",
        # Threads of OpenMP are not watched while they start.
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
        # Each Python object is an allocation of its own.
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=1500
    )


@pytest.mark.timeout(2000)
def test_the_ops_stay_inside_of_their_tensors(tmp_path):
    library = library_of_sanitizer()
    control = watched(["-c", OVERFLOW], library, tmp_path)
    assert control.returncode and "heap-buffer-overflow" in control.stderr
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "_C*.so")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, timeout=1500)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # the settings of pytest
    probe = "import vod2.ops as ops; print(ops.__file__, *ops.compiled_device_types())"
    said = watched(["-c", probe], library, tmp_path).stdout
    assert str(tmp_path) in said and "cpu" in said
    tests = ["tests/ops/test_wild_coordinates.py", "tests/ops/test_roi_align.py", "tests/ops/test_st_sampling.py"]
    run = watched(["-m", "pytest", "-q", "-p", "no:xdist", *tests], library, tmp_path)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "passed" in run.stdout and "AddressSanitizer" not in run.stderr
