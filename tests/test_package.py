"""vod2 as it is installed: the files of its wheel, and its commands in an environment that knows no checkout."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import documents
from helpers.videos import moving_frames, write_video
from vod2.commands import COMMANDS
from vod2.version import __version__

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 200_000  # of a file of the wheel: of code and text, not of data


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """A process that does not know this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


def build(folder: Path, **variables: str) -> Path:
    """The wheel of what lies in a folder, as pip builds it."""
    words = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "wheels", ".")
    done = run(sys.executable, *words, cwd=folder, **variables)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The unpacked source distribution of this checkout."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("sdist")
    for path in ROOT.iterdir():
        if path.name in ("vod2", "projects", "configs"):
            shutil.copytree(path, checkout / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif path.is_file():
            shutil.copy(path, checkout)
    done = run(sys.executable, "setup.py", "sdist", "--dist-dir", folder, cwd=checkout, VOD2_BUILD_OPS="0")
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / f"vod2-{__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"vod2-{__version__}"


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    """Built from the source distribution, without a compiler."""
    return build(sources, VOD2_BUILD_OPS="0")


class Installed:
    """An environment with the wheel and what this one has beside vod2; `folder` is where its programs run."""

    def __init__(self, wheel: Path, root: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
        self.python = root / "venv" / "bin" / "python"
        packages = sysconfig.get_path("purelib", vars={"base": str(root / "venv"), "platbase": str(root / "venv")})
        # A path in a .pth is searched, but the .pth files there, such as that of an editable vod2, are not read.
        known = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]
        Path(packages, "others.pth").write_text("\n".join(known))
        words = ("install", "--no-deps", "--no-index", "--force-reinstall", "--ignore-installed", wheel)
        done = run(sys.executable, "-m", "pip", "--python", self.python, *words, cwd=root)
        assert done.returncode == 0, done.stderr
        self.folder = root / "empty"
        self.folder.mkdir()

    def command(self, *words: str | Path) -> str:
        """What `vod2 WORDS` prints; it must end well."""
        return self.call(self.python.with_name("vod2"), *words)

    def call(self, *command: str | Path) -> str:
        done = run(*command, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_the_wheel_has_code_configurations_and_projects_and_nothing_else(wheel):
    assert wheel.name == f"vod2-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: entry.file_size for entry in archive.infolist()}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vod2").rglob("*.py")}
    projects = {path.relative_to(ROOT).as_posix() for path in (ROOT / "projects").rglob("*.py")}
    wanted = code | {f"vod2/{name}" for name in configs | projects}
    wanted |= {"vod2/py.typed", "vod2/visualization/report_template.html"}
    own = {name for name in files if not name.startswith(f"vod2-{__version__}.dist-info/")}
    assert len(configs) > 80 and own == wanted
    assert max(files.values()) < MOST_BYTES


def test_the_installed_command_lists_its_commands(installed):
    listed = re.findall(r"^  (\w+)  ", installed.command("--help"), flags=re.MULTILINE)
    assert listed == list(COMMANDS)


def test_a_video_is_detected_with_a_packaged_configuration_and_random_weights(installed):
    write_video(installed.folder / "in.mp4", moving_frames(4))
    words = "--video-input in.mp4 --output out.mp4 --json out.json --report out.html --confidence-threshold 0".split()
    installed.call(
        installed.python,
        "-m",
        "vod2",
        "detect",
        "--config-file",
        "quick/RDN.yaml",
        *words,
        "--opts",
        "MODEL.WEIGHTS",
        "",
    )
    assert (installed.folder / "out.mp4").stat().st_size and (installed.folder / "out.html").stat().st_size
    found = json.loads((installed.folder / "out.json").read_text())
    assert len(found["frames"]) == 4


def test_the_python_example_of_the_readme_runs(installed):
    """Word for word, with weights of its model, which are random; nothing of the checkout is read."""
    (example,) = [
        fence.body for fence in documents.fences((ROOT / "README.md").read_text()) if fence.language == "python"
    ]
    before = """
import numpy as np, torch
from vod2 import VideoPredictor as Predictor
torch.save({"model": Predictor("configs/RDN_R101.yaml", "").model.state_dict()}, "rdn.pth")
frames = [np.full((8, 80, 3), 40 * t, np.uint8) for t in range(2)]
"""
    after = """
import vod2.package_files, vod2.projects.rdn
print("places:", *vod2.__path__, vod2.package_files.CONFIGS, vod2.projects.rdn.__file__, sep="\\n")
"""
    printed, places = installed.call(installed.python, "-c", before + example + after).split("places:\n")
    assert [line.split()[0] for line in printed.splitlines() if "Boxes(" in line] == ["0", "1"]
    assert all(Path(place).is_relative_to(installed.python.parents[1]) for place in places.split())


def test_a_message_of_the_installed_package_names_its_own_commands(installed):
    done = run(installed.python.with_name("vod2"), "train", "--config-file", "quick/RDN.yaml", cwd=installed.folder)
    assert done.returncode == 2 and "vod2 synthetic --output" in done.stderr and "tools/" not in done.stderr
