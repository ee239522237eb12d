"""Folders, patterns and lists; ids and signatures."""

import os
from pathlib import Path

import pytest

from vod2.archive import Signature, find_videos, signature_of, video_id
from vod2.errors import UserError


@pytest.fixture
def tree(tmp_path):
    for name in ("a.mp4", "b/c.MKV", "b/note.txt", "d/frames/0.png", "d/frames/1.png", "e/cover.jpg", "e/f.avi"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(tree, *inputs):
    return [str(Path(path).relative_to(tree)) for path in find_videos([str(one) for one in inputs])]


def test_a_tree_gives_video_files_and_folders_of_images_without_covers(tree):
    assert names(tree, tree) == ["a.mp4", "b/c.MKV", "d/frames", "e/f.avi"]


def test_a_pattern_gives_what_fits_it(tree):
    assert names(tree, tree / "*.mp4") == ["a.mp4"]
    assert sorted(names(tree, tree / "**" / "*.[aM]*")) == ["b/c.MKV", "e/f.avi"]
    with pytest.raises(UserError, match="nothing fits this pattern"):
        names(tree, tree / "*.webm")


def test_a_list_is_relative_to_its_folder_and_may_have_remarks(tree):
    (tree / "b" / "some.txt").write_text(f"# two videos\n../a.mp4\n\n{tree}/e/f.avi\n")
    assert names(tree, tree / "b" / "some.txt") == ["a.mp4", "e/f.avi"]


def test_what_does_not_exist_is_named(tree):
    with pytest.raises(UserError, match="'nowhere' does not exist: expected a folder"):
        list(find_videos(["nowhere"]))
    with pytest.raises(UserError, match="'nowhere.txt' of --input cannot be read"):
        list(find_videos(["nowhere.txt"]))


def test_an_id_follows_from_the_path_alone(tree):
    assert video_id("/a/b.mp4") == video_id("/a/b.mp4") != video_id("/a/c.mp4")
    assert len(video_id("/a/b.mp4")) == 20


def test_a_signature_changes_with_size_and_time_of_a_file_or_of_an_image_of_a_folder(tree):
    file, folder = str(tree / "a.mp4"), str(tree / "d" / "frames")
    os.utime(file, ns=(5, 7))
    assert signature_of(file) == Signature(5, 7)
    before = signature_of(folder)
    assert before.size == len("d/frames/0.png") + len("d/frames/1.png")
    later = before.mtime_ns + 10
    os.utime(tree / "d" / "frames" / "1.png", ns=(later, later))
    assert signature_of(folder) == Signature(before.size, later)
    assert signature_of(str(tree / "gone.mp4")) == Signature(0, 0)
