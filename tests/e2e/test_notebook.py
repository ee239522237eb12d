"""The notebook of docs/ runs from its first to its last cell, without Jupyter."""

import json
import os
import re
import subprocess
import sys

import pytest

from helpers.documents import ROOT, commands, options_of

NOTEBOOK = ROOT / "docs" / "own_videos.ipynb"

BEFORE = """
import shlex, subprocess, sys, types

def shell(line):
    program, *words = shlex.split(line)
    assert program == "vod2", line
    done = subprocess.run([sys.executable, "-m", "vod2", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

def shown(kind):
    def show(*words, **options):
        print("shown:", kind, *words, *options)
    return show

display = types.ModuleType("IPython.display")
display.IFrame, display.Image = shown("IFrame"), shown("Image")
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython.display"] = display
"""
"""What Jupyter gives to the cells: lines that begin with "!", and what shows pages and pictures."""


@pytest.fixture(scope="module")
def notebook() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def text(cell: dict) -> str:
    return "".join(cell["source"])


def code_of(notebook: dict) -> list[str]:
    return [text(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_of_format_4_without_outputs(notebook):
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)  # from 4.5 on cells have ids
    assert notebook["metadata"]["kernelspec"].keys() == {"display_name", "language", "name"}
    for cell in notebook["cells"]:
        outputs = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in ("code", "markdown")
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | outputs
        assert all(isinstance(line, str) for line in cell["source"]) and text(cell).strip()
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert NOTEBOOK.stat().st_size < 20_000


def test_its_links_and_options_exist(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\(([^)\s#]+)", text(cell)):
                assert (NOTEBOOK.parent / link).exists(), link
    lines = [line[1:] for code in code_of(notebook) for line in code.splitlines() if line.startswith("!")]
    found = commands("".join(f"    {line}\n" for line in lines))
    assert len(found) == len(lines) > 0
    for command in found:
        assert {word for word in command.words if word.startswith("--")} <= options_of(command.program)


@pytest.mark.timeout(900)
def test_its_cells_run_in_order_in_one_process(notebook, tmp_path):
    program = BEFORE + "\n".join(
        re.sub(r"^!(.+)$", lambda line: f"shell({line[1]!r})", code, flags=re.MULTILINE) for code in code_of(notebook)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=880
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    metrics = [line for line in done.stdout.splitlines() if "AP50" in line]
    assert [line.split()[0] for line in metrics] == ["single_frame", "rdn"]
    assert "shown: IFrame out/report.html width height" in done.stdout and "shown: Image data width" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
