"""Rows of papers, listed and described."""

import subprocess
import sys

import yaml

from helpers.models import ROOT
from vod2.engine import load_config

RDN = "configs/ablations/rdn.yaml"


def show(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/show_config.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_file_of_rows_is_listed_with_the_papers_numbers():
    assert "| T3 | T = 3 | test of RDN_R101 | 80.3 | 90.1 |" in show(RDN).stdout.splitlines()


def test_a_row_in_full_is_a_configuration_that_loads(tmp_path):
    (tmp_path / "T3.yaml").write_text(show(f"{RDN}:T3", "--full", "--opts", "MODEL.DEVICE", "cpu").stdout)
    expected = load_config(str(ROOT / f"{RDN}:T3"), ["MODEL.DEVICE", "cpu"])
    found = load_config(str(tmp_path / "T3.yaml"))
    assert yaml.safe_load(found.dump()) == yaml.safe_load(expected.dump())


def test_a_row_that_there_is_not_is_one_line():
    done = show(f"{RDN}:T5")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
