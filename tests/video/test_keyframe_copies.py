"""Copies whose frames are all keyframes."""

import itertools
import logging
import os
import time

import av
import numpy as np
import pytest

from helpers.videos import moving_frames, write_video
from vod2.errors import VideoError
from vod2.video import VideoReader, is_slow_to_seek, quick_to_read, write_keyframe_copy
from vod2.video import keyframe_copies as module


def keyframes(path) -> list[bool]:
    with av.open(str(path)) as container:
        return [packet.is_keyframe for packet in container.demux(container.streams.video[0]) if packet.size]


@pytest.fixture
def film(tmp_path):
    return write_video(tmp_path / "film.mp4", moving_frames(30), gop=30)


def test_a_copy_has_the_same_pixels_and_keyframes_only(film, tmp_path):
    assert is_slow_to_seek(film) and write_keyframe_copy(film, tmp_path / "copy.mp4")
    assert all(keyframes(tmp_path / "copy.mp4")) and len(keyframes(film)) == 30 > sum(keyframes(film))
    assert not is_slow_to_seek(tmp_path / "copy.mp4")
    for original, copied in zip(VideoReader(film), VideoReader(tmp_path / "copy.mp4"), strict=True):
        assert np.array_equal(original, copied)
    picked = VideoReader(tmp_path / "copy.mp4").read([17, 3])
    expected = VideoReader(film).read([17, 3])
    assert all(np.array_equal(picked[index], expected[index]) for index in expected)


def test_a_variable_rate_changes_no_numbers(tmp_path):
    film = write_video(tmp_path / "film.mp4", moving_frames(12), times=[0, 1, 2, 9, 10, 11, 30, 31, 32, 33, 60, 61])
    assert write_keyframe_copy(film, tmp_path / "copy.mp4")
    assert len(list(VideoReader(tmp_path / "copy.mp4"))) == 12


def test_what_cannot_be_copied_exactly_is_not_copied(film, tmp_path, monkeypatch):
    content = film.read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    ten_bits = tmp_path / "ten.mkv"
    with av.open(str(ten_bits), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for frame in moving_frames(4):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(format="yuv420p10le")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    for path in (broken, tmp_path / "text.mp4", ten_bits):
        assert not write_keyframe_copy(path, tmp_path / "copy.mp4"), path
    counter = itertools.count()
    monkeypatch.setattr(module, "_digest", lambda frame: next(counter))
    assert not write_keyframe_copy(film, tmp_path / "copy.mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.mp4", "film.mp4", "ten.mkv", "text.mp4"]


def test_a_folder_has_copies_and_links_and_is_not_made_twice(film, tmp_path, caplog):

    quick = tmp_path / "quick.mp4"
    assert write_keyframe_copy(film, quick)
    folder = tmp_path / "copies"
    with caplog.at_level(logging.WARNING):
        assert quick_to_read([film, quick], folder)
    assert "read as they are" not in caplog.text, "one needs no copy"
    assert (folder / "quick.mp4").is_symlink() and not (folder / "film.mp4").is_symlink()
    before = os.stat(folder / "film.mp4").st_mtime_ns
    assert quick_to_read([film, quick], folder) and os.stat(folder / "film.mp4").st_mtime_ns == before
    later = os.stat(folder / "film.mp4").st_mtime + 10
    os.utime(film, (later, later))
    assert quick_to_read([film], folder) and os.stat(folder / "film.mp4").st_mtime_ns != before


def test_no_folder_is_made_where_no_copy_helps_or_the_disk_is_full(film, tmp_path, monkeypatch, caplog):
    quick = tmp_path / "quick.mp4"
    assert write_keyframe_copy(film, quick)
    assert not quick_to_read([quick], tmp_path / "copies") and not (tmp_path / "copies").exists()
    monkeypatch.setattr(module, "_FREE", 2**60)
    assert not quick_to_read([film], tmp_path / "copies", unchanged=[film]) and not (tmp_path / "copies").exists()
    with caplog.at_level(logging.WARNING):
        assert not quick_to_read([film], tmp_path / "copies")
    assert "1 of 1 videos are read as they are" in caplog.text and (tmp_path / "copies" / "film.mp4").is_symlink()
    with pytest.raises(VideoError, match="two of 2 video files have the same name"):
        quick_to_read([film, tmp_path / "film.avi"], tmp_path / "copies")


def test_a_file_of_which_little_is_read_is_not_copied(tmp_path):
    films = [write_video(tmp_path / f"film{number}.mp4", moving_frames(30), gop=30) for number in range(2)]
    # A read decodes half of the frames from one keyframe to the next; a copy takes as long as decoding 8 x 60 frames.
    interval = 30 / sum(keyframes(films[0]))
    enough = 8 * 60 / (interval / 2)
    assert not quick_to_read(films, tmp_path / "few", reads=int(0.9 * enough)) and not (tmp_path / "few").exists()
    assert quick_to_read(films, tmp_path / "many", reads=int(1.1 * enough))
    # Of one file alone more is read.
    assert quick_to_read(films, tmp_path / "one", unchanged=films[1:], reads=int(0.9 * enough))
    assert not (tmp_path / "one" / "film0.mp4").is_symlink() and (tmp_path / "one" / "film1.mp4").is_symlink()


def test_several_are_copied_at_the_same_time(tmp_path):
    films = [write_video(tmp_path / f"film{number}.mp4", moving_frames(30), gop=30) for number in range(5)]
    before = os.umask(0o027)
    try:
        assert quick_to_read(films, tmp_path / "copies")
        assert os.umask(0o027) == 0o027, "reading the umask of the process sets it, which no two threads may do at once"
    finally:
        os.umask(before)
    for film in films:
        copy = tmp_path / "copies" / film.name
        assert not copy.is_symlink() and all(keyframes(copy)) and copy.stat().st_mode & 0o777 == 0o640


def test_ctrl_c_ends_the_copies_that_are_running(tmp_path, monkeypatch):
    films = [write_video(tmp_path / f"film{number}.mp4", moving_frames(30), gop=30) for number in range(3)]

    def encode(source, target, may_go_on):
        until = time.monotonic() + 60
        while may_go_on() and time.monotonic() < until:
            time.sleep(0.01)
        return False

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_encode", encode)
    monkeypatch.setattr(module, "tqdm", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        quick_to_read(films, tmp_path / "copies")
    assert time.monotonic() - start < 30
    assert not [file.name for file in (tmp_path / "copies").iterdir() if file.name.startswith(".vod2")]
