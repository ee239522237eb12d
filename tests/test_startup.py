"""The list of commands is printed at once: without PyTorch, which `import vod2` brings everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vod2.commands import only_prints

ROOT = Path(__file__).resolve().parents[1]


def start(*words: str | Path, **variables: str) -> subprocess.CompletedProcess:
    """A process of Python that knows this checkout, and what it imported in its stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"} | variables
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


def imported(done: subprocess.CompletedProcess) -> set[str]:
    """The names of the modules."""
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "usage: vod2 COMMAND ..."),
        (["--version"], 0, "vod2 "),
        ([], 2, "usage: vod2 COMMAND ..."),
        (["detct"], 2, "error: vod2 has no command 'detct': did you mean 'detect'?"),
    ],
)
def test_what_is_no_command_imports_no_pytorch(words, code, said):
    done = start("-m", "vod2", *words)
    assert done.returncode == code and said in done.stdout + done.stderr
    modules = imported(done)
    assert "vod2.commands" in modules and not modules & {"torch", "numpy", "cv2", "vod2.engine"}


def test_a_program_of_another_name_gets_everything_whatever_its_words_are(tmp_path):
    program = tmp_path / "vod2"
    program.write_text("import vod2\nfrom vod2.engine import load_config\nprint(vod2.VideoRCNN.__name__)\n")
    done = start(program, "--help", PYTHONPROFILEIMPORTTIME="")
    assert done.stdout == "VideoRCNN\n", done.stderr


BESIDE = str(Path(sys.executable).parent)


@pytest.mark.parametrize(
    ("argv", "of_python", "prints"),
    [
        (["-m", "--help"], ["-m", "vod2", "--help"], True),
        (["-m"], ["-X", "importtime", "-m", "vod2"], True),
        (["-m", "detect", "--help"], ["-m", "vod2", "detect", "--help"], False),
        (["-m", "--help"], ["-m", "another", "--help"], False),
        ([f"{BESIDE}/vod2", "--version"], [f"{BESIDE}/vod2", "--version"], True),
        ([f"{BESIDE}/vod2.exe"], [f"{BESIDE}/vod2.exe"], True),
        ([f"{BESIDE}/vod2", "train"], [f"{BESIDE}/vod2", "train"], False),
        ([f"{BESIDE}/pytest", "--help"], [f"{BESIDE}/pytest", "--help"], False),
        (["/somewhere/else/vod2", "--help"], ["/somewhere/else/vod2", "--help"], False),
        (["vod2 train", "--resume"], ["-m", "vod2", "train", "--resume"], False),
        ([""], [], False),
        ([], [], False),
        (["-c", "--help"], ["-c", "import vod2", "--help"], False),
    ],
)
def test_only_the_command_itself_skips_imports(argv, of_python, prints, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *of_python])
    assert only_prints() is prints
