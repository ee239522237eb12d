"""Whatever a file says, its reader takes it or refuses it with a UserError; the readers are those of tools/fuzz.py."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzz import fuzz, json_values, mutated_bytes, mutated_json
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
try:
    from fuzzing import TARGETS
    from fuzzing.target import load_tool
finally:
    sys.path.remove(str(ROOT / "tools"))

EACH = pytest.mark.parametrize("name", TARGETS)

ALIASES = b"".join(b"a%d: &a%d [%s]\n" % (k, k, b", ".join([b"*a%d" % (k - 1)] * 10)) for k in range(1, 12))
LAUGHS = b"".join(b'<!ENTITY a%d "%s">' % (k, b"&a%d;" % (k - 1) * 10) for k in range(1, 12))
HOSTILE = {
    "nothing": b"",
    "nested JSON": b"[" * 20_000,
    "nested objects": b'{"a":' * 10_000,
    "nested XML": b"<annotation>" * 20_000,
    "a nested block of YAML": b"".join(b" " * k + b"a:\n" for k in range(700)),
    "a long whole number": b"9" * 5000,
    "a long hexadecimal number": b"names: 0x" + b"f" * 5000,
    "infinity": b"1e400,1e400,1e400,1e400,1e400,1e400,1e400,1e400,1e400",
    "a NUL": b"a/\0/b 1\n",
    "a name that no file can have": b"a" * 5000 + b"/000000 1\n",
    "half a character": b'["\\ud800"]',
    "UTF-16 without text": b"\xff\xfe",
    "entities of entities": b'<!DOCTYPE a [<!ENTITY a0 "laugh">' + LAUGHS + b"]><annotation>&a11;</annotation>",
    "aliases of aliases": b"a0: &a0 [x]\n" + ALIASES,
    "an alias of itself": b"a: &a [*a]\n",
}


@pytest.fixture
def target(name, tmp_path):
    return TARGETS[name](tmp_path)


@EACH
def test_a_file_as_it_should_be_is_taken(target):
    assert target.run(target.seeds[0]) == ""


@EACH
def test_hostile_content_is_taken_or_refused(target):
    for content in HOSTILE.values():
        target.run(content)


def documents(seeds):
    """Those of the contents that are JSON."""
    for seed in seeds:
        try:
            yield json.loads(seed)
        except ValueError:
            continue


@EACH
def test_any_content_is_taken_or_refused(target):
    contents = st.binary(max_size=60) | st.sampled_from(target.seeds).flatmap(mutated_bytes)
    if valid := list(documents(target.seeds)):
        values = (
            json_values | st.sampled_from(valid).flatmap(mutated_json) | st.sampled_from(valid).flatmap(mutated_json)
        )
        contents |= values.map(lambda value: json.dumps(value).encode())

    @fuzz(40)
    @given(contents)
    def read(content):
        target.run(content)

    read()


@pytest.fixture(scope="module")
def tool():
    return load_tool("fuzz")


def test_a_find_can_be_read_again(tool, tmp_path, capsys):
    (tmp_path / "good").write_bytes(b"0 .5 .5 .2 .2\n")
    (tmp_path / "bad").write_bytes(b"0 .5\n")
    tool.main(["yolo", "--replay", str(tmp_path / "good")])
    assert capsys.readouterr().out == f"{tmp_path / 'good'}: taken\n"
    tool.main(["yolo", "--replay", str(tmp_path / "bad")])
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'bad'}: refused: ") and "0.txt, line 1" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yola"], "TARGET is 'yola', expected one of .*vid-xml"),
        (["yolo", "--seconds", "0"], "--seconds is 0, expected at least 1"),
        (["yolo", "--replay", "nowhere"], "--replay nowhere: no such file"),
    ],
)
def test_what_cannot_be_run_is_refused(tool, words, message):
    with pytest.raises(UserError, match=message):
        tool.main(words)


def test_all_targets_are_listed(tool, capsys):
    tool.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TARGETS)


def test_a_fault_is_told_with_the_file_that_shows_it(tool, tmp_path, monkeypatch, capsys):
    """Atheris itself is not needed: what it leaves behind is."""

    def leave(command, **options):
        (tmp_path / "crash-1").write_bytes(b"x")
        options["stdout"].write("#7\tDONE cov: 3\n")

    monkeypatch.setattr(tool, "find_atheris", lambda: True)
    monkeypatch.setattr(tool.subprocess, "run", leave)
    with pytest.raises(SystemExit) as end:
        tool.main(["yolo", "--seconds", "1", "--output", str(tmp_path)])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "yolo: 7 inputs in at most 1 s, 1 faults" in out and f"yolo --replay {tmp_path / 'crash-1'}" in out
