"""Building the extension is optional: nothing that goes wrong with it fails the installation."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WARNING = "WARNING: the compiled ops of vod2 were not built"


@pytest.fixture
def checkout(tmp_path):
    """What setup.py reads, in a folder of its own."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("vod2", "projects", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


def run_setup(folder, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_switching_the_ops_off_builds_nothing_and_says_nothing(checkout):
    result = run_setup(checkout, "build_ext", "--inplace", VOD2_BUILD_OPS="0")
    assert result.returncode == 0, result.stderr
    assert WARNING not in result.stdout + result.stderr
    assert not list(checkout.glob("vod2/_C*"))


def test_a_compiler_that_fails_gives_one_warning_and_no_error(checkout):
    result = run_setup(checkout, "build_ext", "--inplace", VOD2_BUILD_OPS="1", CC="/bin/false", CXX="/bin/false")
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count(WARNING) == 1
    assert not list(checkout.glob("vod2/_C*"))


def test_a_build_environment_without_pytorch_gives_one_warning_and_no_error(checkout):
    (checkout / "torch.py").write_text("raise ImportError('hidden')")
    result = run_setup(checkout, "build_ext", "--inplace", VOD2_BUILD_OPS="1", PYTHONPATH=str(checkout))
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count(WARNING) == 1


def test_the_cuda_runtime_is_found_where_the_toolkit_of_a_wrapped_nvcc_has_it(checkout, tmp_path):
    """A script on the PATH that runs the toolkit's own compiler, as some distributions have it."""
    toolkit, wrapper = tmp_path / "cuda-13", tmp_path / "local" / "bin" / "nvcc"
    for file in (toolkit / "bin" / "nvcc", toolkit / "lib64" / "libcudart.so", wrapper):
        file.parent.mkdir(parents=True)
        file.touch()
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={toolkit}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    code = """
import runpy, setuptools, torch
torch.version.cuda = torch.version.cuda or "13.0"
setuptools.setup = lambda **arguments: print("found", arguments["ext_modules"][0].library_dirs)
runpy.run_path("setup.py")
"""
    variables = {"VOD2_BUILD_OPS": "1", "FORCE_CUDA": "1", "CUDA_HOME": str(wrapper.parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=os.environ | variables, capture_output=True, text=True
    )
    assert f"'{toolkit / 'lib64'}'" in result.stdout, result.stderr


def test_every_project_is_packaged_under_its_importable_name(checkout):
    result = run_setup(checkout, "build_py", "--build-lib", str(checkout / "built"), VOD2_BUILD_OPS="0")
    assert result.returncode == 0, result.stderr
    projects = {init.parent.name for init in (ROOT / "projects").glob("*/__init__.py")}
    packaged = {init.parent.name for init in (checkout / "built" / "vod2" / "projects").glob("*/__init__.py")}
    assert projects and packaged == projects
    assert (checkout / "built" / "vod2" / "py.typed").is_file()  # type checkers of others may read its annotations


def test_the_version_of_the_package_is_the_one_in_the_version_file(checkout):
    result = run_setup(checkout, "--version", VOD2_BUILD_OPS="0")
    stated = re.search(r'"(.+)"', (ROOT / "vod2" / "version.py").read_text().split("__version__")[1]).group(1)
    assert result.stdout.strip().splitlines()[-1] == stated


def test_the_citation_states_the_version_and_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] in (ROOT / "vod2" / "version.py").read_text()
    assert f'license="{citation["license"]}"' in (ROOT / "setup.py").read_text()
