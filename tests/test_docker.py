"""The images of docker/: what can be said of them without building them."""

import fnmatch
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """(FROM, its words) and so on, continued lines in one."""
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found = [line.partition(" ") for line in "\n".join(lines).replace("\\\n", " ").splitlines()]
    return [(name, " ".join(words.split())) for name, _, words in found]


def copied(file: Path) -> list[str]:
    """What COPY takes of the checkout."""
    words = [text.split() for name, text in instructions(file) if name == "COPY" and not text.startswith("--from=")]
    return [source for *sources, _ in words for source in sources]


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@EACH
def test_every_line_is_an_instruction_of_docker(file):
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions(file)} <= known
    for name, words in instructions(file):
        if name in ("VOLUME", "ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(words))


@EACH
def test_what_is_copied_exists_and_is_not_ignored(file):
    sources = copied(file)
    assert {"vod2", "projects", "configs", "setup.py", "constraints.txt"} <= set(sources)
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sources) == sorted(kept)
    assert all((ROOT / source).exists() for source in sources)


def test_nothing_else_goes_to_docker():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    compiled = [path for path in (ROOT / "vod2").rglob("*.so")] + [Path("vod2/__pycache__"), Path("vod2/a.pyc")]
    patterns = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    assert all(any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns) for path in compiled)


@EACH
def test_all_that_pip_installs_is_pinned_by_constraints_txt(file):
    pins = dict(re.findall(r"^([\w-]+)==([^;\s]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    installs = [words for name, words in instructions(file) if name == "RUN" and "pip install" in words]
    assert len(installs) == 2
    for words in installs:
        assert words.startswith("pip install -c constraints.txt ")
        named = [word for word in words.split()[4:] if re.fullmatch(r"[a-z][\w-]*", word)]
        assert set(named) <= pins.keys()
    own = re.findall(r"([\w-]+)==([\w.]+)", file.read_text())
    assert all(pins.get(name) == version for name, version in own)


def test_the_toolkit_of_the_gpu_image_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    if torch.version.cuda is None or sys.platform != "linux":
        pytest.skip("this PyTorch is for CPUs only")
    (version,) = (words for name, words in instructions(ROOT / "docker" / "gpu.Dockerfile") if name == "ARG")
    assert version.removeprefix("CUDA=").startswith(f"{torch.version.cuda}.")


@EACH
def test_it_runs_vod2_as_somebody_who_is_not_root(file):
    found = instructions(file)
    last = found[max(number for number, (name, _) in enumerate(found) if name == "FROM") :]
    assert ("USER", "vod2") in last and "useradd --uid 10001" in str(last)
    assert ("ENTRYPOINT", '["vod2"]') in last and ("VOLUME", '["/data", "/work/output"]') in last
    assert not any("g++" in words or "devel" in words for _, words in last), "the compiler stays in the first stage"


def test_the_gpu_image_compiles_for_gpus_and_the_other_does_not():
    cpu, gpu = (str(instructions(file)) for file in FILES)
    assert "FORCE_CUDA=1" in gpu and "-devel-" in gpu and "FORCE_CUDA" not in cpu
