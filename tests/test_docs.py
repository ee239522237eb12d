"""The documents' programs run, and what they point at exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")})


def test_the_program_of_extending_md_turns_a_detectron2_script_into_rdn(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(text.splitlines()) < 60
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 <= float(done.stdout.splitlines()[-1]) <= 100
    assert (tmp_path / "output_my_videos" / "model_final.pth").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_document_names_exist(document):
    pattern = r"(?:tools|configs|projects|vod2|docs|tests)/[\w./-]+\.(?:py|yaml|md|png)\b"
    named = re.findall(pattern, document.read_text())
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing, f"{document.name} names files that do not exist: {missing}"


def test_the_page_of_fidelity_has_every_finding_and_names_tests_that_exist():
    text = (ROOT / "docs" / "fidelity.md").read_text()
    assert re.findall(r"^## (\d+)\.", text, flags=re.MULTILINE) == [str(number) for number in range(1, 29)]
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files}.union(*(re.findall(r"def (test_\w+)", path.read_text()) for path in files))
    named = set(re.findall(r"\btest_\w+(?:\.\.\.)?", text))
    exact = {name for name in named if not name.endswith("...")}
    missing = exact - known | {name for name in named - exact if not any(one.startswith(name[:-3]) for one in known)}
    assert len(exact) > 50 and not missing, missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_with_seq_nms_takes_boxes_before_nms(document):
    """The rows of configs/ablations do by their keys (tests/engine/test_paper_rows.py)."""
    for line in document.read_text().splitlines():
        if "--eval-only" in line and "LINKER.NAME SeqNMS" in line:
            assert "NMS_THRESH_TEST 1.0" in line, line
