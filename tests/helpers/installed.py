"""vod2 as users install it: source distribution, wheel, and an environment that knows no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from vod2.version import __version__

ROOT = Path(__file__).resolve().parents[2]


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


def write_sources(folder: Path) -> Path:
    """The unpacked source distribution of this checkout, made in a folder."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("vod2", "projects", "configs"):
            shutil.copytree(path, checkout / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif path.is_file():
            shutil.copy(path, checkout)
    done = run(sys.executable, "setup.py", "sdist", "--dist-dir", folder, cwd=checkout, VOD2_BUILD_OPS="0")
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / f"vod2-{__version__}.tar.gz") as archive:
        # Python 3.10 has the filter from its twelfth release on.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / f"vod2-{__version__}"


class Installed:
    """An environment with the wheel and what this one has beside vod2; `folder` is where its programs run."""

    def __init__(self, wheel: Path, root: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
        self.python = root / "venv" / "bin" / "python"
        packages = sysconfig.get_path("purelib", vars={"base": str(root / "venv"), "platbase": str(root / "venv")})
        # A path in a .pth is searched last, and .pth files there, such as that of an editable vod2, are not read.
        own = (ROOT, ROOT / "tests", ROOT / "tools")
        known = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() not in own]
        Path(packages, "others.pth").write_text("\n".join(known))
        words = ("install", "--no-deps", "--no-index", "--force-reinstall", "--ignore-installed", wheel)
        done = run(sys.executable, "-m", "pip", "--python", self.python, *words, cwd=root)
        assert done.returncode == 0, done.stderr
        self.folder = root / "empty"
        self.folder.mkdir()

    @property
    def program(self) -> Path:
        """The command `vod2`."""
        return self.python.with_name("vod2")

    def command(self, *words: str | Path, cwd: Path | None = None) -> str:
        """What `vod2 WORDS` prints, in `folder` unless told; it must end well."""
        return self.call(self.program, *words, cwd=cwd)

    def call(self, *command: str | Path, cwd: Path | None = None) -> str:
        done = run(*command, cwd=cwd or self.folder)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout
