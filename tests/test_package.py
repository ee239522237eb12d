"""vod2 as it is installed: the files of its wheel, and its commands in an environment that knows no checkout."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import documents
from helpers.installed import ROOT, Installed, build, run
from helpers.videos import moving_frames, write_video
from vod2 import package_files
from vod2.commands import COMMANDS, main
from vod2.engine import load_config
from vod2.errors import UserError
from vod2.version import __version__

MOST_BYTES = 200_000  # of a file of the wheel: of code and text, not of data


@pytest.fixture(autouse=True)
def own_words(monkeypatch) -> None:
    """`main` changes the words of the process."""
    monkeypatch.setattr(sys, "argv", ["pytest"])


def test_the_wheel_has_code_configurations_projects_and_weights_and_nothing_else(wheel):
    assert wheel.name == f"vod2-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: entry.file_size for entry in archive.infolist()}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vod2").rglob("*.py")}
    projects = {path.relative_to(ROOT).as_posix() for path in (ROOT / "projects").rglob("*.py")}
    wanted = code | {f"vod2/{name}" for name in configs | projects}
    checkpoints = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vod2" / "checkpoints").rglob("*.*")}
    assert any(name.endswith(".safetensors") for name in checkpoints)
    wanted |= checkpoints | {"vod2/py.typed", "vod2/visualization/report_template.html", "vod2/serve/page.html"}
    own = {name for name in files if not name.startswith(f"vod2-{__version__}.dist-info/")}
    assert len(configs) > 80 and own == wanted
    assert max(size for name, size in files.items() if not name.endswith(".safetensors")) < MOST_BYTES


def test_the_installed_command_lists_its_commands(installed):
    listed = re.findall(r"^  (\w+)  ", installed.command("--help"), flags=re.MULTILINE)
    assert listed == list(COMMANDS)


def test_the_installed_command_lists_its_commands_without_pytorch(installed):
    done = run(installed.python.with_name("vod2"), "--help", cwd=installed.folder, PYTHONPROFILEIMPORTTIME="1")
    assert " vod2.commands\n" in done.stderr and " torch\n" not in done.stderr


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


def test_a_packaged_configuration_is_measured(installed):
    """Its memory by a process of its own, which is no file of tools/."""
    words = "--config-file quick/FasterRCNN.yaml --size 48x64 --frames 1 --threads 1".split()
    assert "| FasterRCNN |" in installed.command("benchmark", "detectors", *words)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_wheel_with_compiled_ops_is_one_of_its_platform_and_runs_them(sources, tmp_path):
    """Where there is a compiler; without one the wheel is still built, and says so (tests/test_build.py)."""
    if shutil.which("c++") is None:
        pytest.skip("no compiler")
    shutil.copytree(sources, tmp_path / "sources", ignore=shutil.ignore_patterns("build", "wheels", "*.egg-info"))
    wheel = build(tmp_path / "sources", VOD2_BUILD_OPS="1")
    assert not wheel.name.endswith("-any.whl")
    installed = Installed(wheel, tmp_path)
    printed = installed.call(
        installed.python, "-c", "from vod2.ops import compiled_device_types as types; print(*types())"
    )
    assert "cpu" in printed.split()


@pytest.mark.parametrize(
    ("program", "in_checkout", "said"),
    [
        ("tools/train_net.py", True, "python tools/check_dataset.py"),
        ("/venv/bin/vod2", True, "vod2 check"),
        ("vod2 train", True, "vod2 check"),
        ("own_program.py", False, "vod2 check"),
    ],
)
def test_messages_name_commands_that_are_there(program, in_checkout, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    if not in_checkout:
        monkeypatch.setattr(package_files, "_PACKAGE", tmp_path / "site-packages" / "vod2")
    assert package_files.command_line("check") == said


def test_evaluation_in_a_checkout_is_training_with_an_option(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py"])
    assert package_files.command_line("eval") == "python tools/train_net.py --eval-only"


@pytest.mark.parametrize(
    "name", ["RDN_R101.yaml", "configs/RDN_R101.yaml", "./configs/RDN_R101.yaml", str(ROOT / "configs/RDN_R101.yaml")]
)
def test_a_packaged_configuration_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).VIDEO.TEST_SCHEDULE.NAME == "SlidingWindow"


def test_a_row_of_a_packaged_file_is_found_with_its_bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RDN_R101.yaml").write_text("VIDEO: {TEST_SCHEDULE: {RADIUS: 5}}")  # no base of a packaged row
    assert load_config("ablations/rdn.yaml:T3").VIDEO.TEST_SCHEDULE.RADIUS == 3
    assert load_config("ablations/rdn.yaml:T3").VIDEO.TEST_SCHEDULE.NAME == "SlidingWindow"


@pytest.mark.parametrize("name", ["RDN_R101.yaml", "configs/RDN_R101.yaml"])
def test_a_file_of_the_users_own_is_preferred(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("VIDEO: {TEST_SCHEDULE: {RADIUS: 5}}")
    assert load_config(name).VIDEO.TEST_SCHEDULE.RADIUS == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quick/RND.yaml", "did you mean quick/RDN.yaml?"),
        ("mine.yaml", "give a file, or a name: "),
        ("../configs/RDN_R101.yaml", "did you mean|give a file"),
        ("configs", "'configs' does not exist: give a file"),
        ("/nowhere/RDN_R101.yaml", "'/nowhere/RDN_R101.yaml' does not exist"),
    ],
)
def test_a_configuration_that_does_not_exist_is_one_sentence_with_the_remedy(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said) if "|" not in said else said) as error:
        load_config(name)
    assert "show" in str(error.value) and "--list" in str(error.value)


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def test_an_unknown_command_is_told_with_the_one_that_is_meant(capsys):
    assert call("detct") == 2
    assert capsys.readouterr().err == "error: vod2 has no command 'detct': did you mean 'detect'?\n"
    assert call("xyz") == 2 and "expected one of detect, serve, archive" in capsys.readouterr().err
    assert call() == 2 and capsys.readouterr().err.startswith("usage: vod2 COMMAND")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_it_and_no_file_of_tools(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vod2", name, "--help"])
    assert call(name, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: vod2 {name} ") and f"vod2 {name} " in said.split("\n\n", 1)[1]
    assert "python tools/" not in said


def test_every_tool_that_is_a_command_takes_the_same_options():
    for name, tool in package_files.TOOLS.items():
        of_command, of_tool = documents.options_of(f"vod2 {name}"), documents.options_of(f"tools/{tool}.py")
        # tools/train_net.py is both: what only a training takes is not for `vod2 eval`.
        assert of_command <= of_tool if name == "eval" else of_command == of_tool
    assert package_files.TOOLS.keys() == COMMANDS.keys()


def test_eval_is_train_with_eval_only(capsys):
    missing = ("MODEL.WEIGHTS", "nowhere.pth")
    assert call("eval", "--config-file", "quick/RDN.yaml", *missing) == 2
    evaluated = capsys.readouterr().err
    assert call("train", "--eval-only", "--config-file", "quick/RDN.yaml", *missing) == 2
    assert evaluated == capsys.readouterr().err and "nowhere.pth" in evaluated
