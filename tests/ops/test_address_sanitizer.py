"""The compiled ops under AddressSanitizer: no read or write outside a tensor, at any coordinates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.models import ROOT

pytestmark = pytest.mark.slow

LOG = "sanitizer"
FOLDERS = ("vod2", "projects", "tests", "configs", "tools")
# As setup.py builds them, but quicker to compile, and watched.
BUILD = """
from pathlib import Path
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
sources = sorted(map(str, Path("vod2/csrc").rglob("*.cpp")))
flags = ["-O1", "-g1", "-std=c++17", "-fopenmp", "-fno-omit-frame-pointer", "-fsanitize=address"]
ops = CppExtension("vod2._C", sources, extra_compile_args=flags, extra_link_args=["-fsanitize=address"])
build = {"build_ext": BuildExtension}
setup(name="ops", packages=[], ext_modules=[ops], cmdclass=build, script_args=["build_ext", "--inplace"])
"""
# Reads one element behind an allocation, by way of a function that AddressSanitizer watches.
OVERFLOW = "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; ctypes.string_at(c.malloc(8), 9)"


def libraries() -> str:
    """What is loaded before Python: AddressSanitizer, which needs the C++ library for exceptions; skips without it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to build the ops with")
    paths = []
    for name in ("libasan.so", "libstdc++.so"):
        command = [compiler, f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    if not Path(paths[0]).is_absolute():  # the bare name, where there is no such library
        pytest.skip("this g++ has no AddressSanitizer")
    return " ".join(paths)


def watched(arguments: list[str], preloaded: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "LD_PRELOAD": preloaded,
        # What Python and PyTorch keep until they end is no leak of the ops.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={folder}/{LOG}",
        # Threads of OpenMP are not watched while they start.
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
        # Each Python object is an allocation of its own.
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=1500
    )


def findings(folder: Path) -> str:
    """What AddressSanitizer has written; pytest takes what is written to stderr."""
    return "".join(path.read_text() for path in folder.glob(f"{LOG}.*"))


@pytest.mark.timeout(2000)
def test_the_ops_stay_inside_of_their_tensors(tmp_path):
    preloaded = libraries()
    (control := tmp_path / "control").mkdir()
    assert watched(["-c", OVERFLOW], preloaded, control).returncode
    assert "heap-buffer-overflow" in findings(control)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "_C*.so")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, timeout=1500)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # the settings of pytest
    probe = "import vod2.ops as ops; print(ops.__file__, *ops.compiled_device_types())"
    said = watched(["-c", probe], preloaded, tmp_path).stdout
    assert str(tmp_path) in said and "cpu" in said
    names = ("wild_coordinates", "roi_align", "st_sampling", "deform_conv")
    tests = [f"tests/ops/test_{name}.py" for name in names]
    run = watched(["-m", "pytest", "-q", "-p", "no:xdist", *tests], preloaded, tmp_path)
    assert findings(tmp_path) == ""
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "passed" in run.stdout
