"""A file is the old one or the whole new one; what a killed process leaves is found."""

import errno
import os
import sqlite3
import subprocess
import sys

import pytest

from vod2.atomic import full_disk_errno, remove_leftovers, replacing, replacing_all, temporary_path

# Begins to replace a file, and waits to be killed.
WRITER = """
import sys, time
from vod2.atomic import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_a_killed_process_leaves_is_removed_when_it_is_dead_and_not_before(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("old")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"written\n"
        assert remove_leftovers(tmp_path) == []
    finally:
        writer.kill()
        writer.wait()
    (removed,) = remove_leftovers(tmp_path)
    assert target.read_text() == "old"
    assert removed.suffix == ".json"
    assert os.listdir(tmp_path) == ["results.json"]


def test_an_old_one_of_another_machine_is_removed_and_a_new_one_stays(tmp_path):
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        path = tmp_path / f".vod2-00000000-1-{name}-abc.json"
        path.write_text("half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert [path.name for path in remove_leftovers(tmp_path)] == [".vod2-00000000-1-old-abc.json"]


def test_a_hidden_file_of_somebody_else_stays(tmp_path):
    (tmp_path / ".vod2-notes").write_text("mine")
    assert remove_leftovers(tmp_path) == []


def test_the_temporary_file_has_the_suffix_of_the_target(tmp_path):
    assert temporary_path(tmp_path / "video.mp4").suffix == ".mp4"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
        (ValueError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (ValueError("I/O error: No such file or directory (os error 2)"), None),
        # As a loader's process passes it on, with what happened before
        (OSError("KeyError: 2\n[Errno 2] No such file\nOSError: [Errno 28] No space left on device"), errno.ENOSPC),
    ],
)
def test_a_full_disk_is_known_from_the_error_of_any_library(error, number):
    assert full_disk_errno(error) == number


def test_files_that_belong_together_are_replaced_together(tmp_path):
    first, second = tmp_path / "weights", tmp_path / "manifest"
    first.write_text("old")
    with pytest.raises(RuntimeError), replacing_all([first, second]) as (one, other):
        one.write_text("new")
        other.write_text("new")
        raise RuntimeError
    assert first.read_text() == "old"
    assert os.listdir(tmp_path) == ["weights"]
    with replacing_all([first, second]) as (one, other):
        one.write_text("new")
        other.write_text("newer")
    assert (first.read_text(), second.read_text()) == ("new", "newer")
