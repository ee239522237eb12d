"""VideoReader on videos and folders made here."""

import struct
from fractions import Fraction

import cv2
import numpy as np
import pytest

from vod2.data.reader import VideoReader
from vod2.errors import VideoError
from vod2.visualization import VideoWriter

GRAYS = [20, 80, 140, 200, 250]


def gray(value, size=(64, 48)):
    return np.full((size[1], size[0], 3), value, np.uint8)


def write_video(path, frames, fps=Fraction(30000, 1001)):
    with VideoWriter(path, fps, (frames[0].shape[1], frames[0].shape[0])) as video:
        for frame in frames:
            video.write(frame)
    return path


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", [gray(value) for value in GRAYS])


def test_frames_of_a_file_come_in_order_as_often_as_asked(clip):
    reader = VideoReader(clip)
    for _ in range(2):
        frames = list(reader)
        assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in frames)
        np.testing.assert_allclose([frame.mean() for frame in frames], GRAYS, atol=3)


def test_rate_size_and_number_of_frames_are_those_of_the_file(clip):
    reader = VideoReader(str(clip))
    assert (reader.fps, reader.size) == (Fraction(30000, 1001), (64, 48))
    assert reader.frame_count_hint == 5


def test_the_number_of_frames_is_estimated_where_the_container_does_not_count(tmp_path):
    reader = VideoReader(write_video(tmp_path / "clip.mkv", [gray(value) for value in GRAYS]))
    assert reader.frame_count_hint == 5


def test_colours_are_bgr(tmp_path):
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 0] = 255
    frame = next(iter(VideoReader(write_video(tmp_path / "blue.mp4", [blue]))))
    assert frame[..., 0].mean() > 200 and frame[..., 1:].mean() < 30


def test_a_stored_rotation_is_applied(tmp_path):
    left_is_white = gray(0)
    left_is_white[:, :16] = 255
    path = write_video(tmp_path / "phone.mp4", [left_is_white] * 2)
    data = bytearray(path.read_bytes())
    # The display matrix of the track header maps (x, y) to (-y, x): a quarter turn clockwise on the screen.
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    reader = VideoReader(path)
    frame = next(iter(reader))
    assert reader.size == (48, 64)
    assert frame[:14].mean() > 240 and frame[20:].mean() < 15


def test_a_folder_is_read_in_natural_order_and_other_files_are_left_out(tmp_path):
    for number, value in ((10, 200), (9, 100), (0, 50)):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), gray(value))
    (tmp_path / "notes.txt").write_text("no image")
    reader = VideoReader(tmp_path)
    assert [int(frame.mean()) for frame in reader] == [50, 100, 200]
    assert (reader.frame_count_hint, reader.size, reader.fps) == (3, (64, 48), 25)


def test_a_missing_or_empty_source_is_named(tmp_path):
    with pytest.raises(VideoError, match="no video .*absent.mp4"):
        VideoReader(tmp_path / "absent.mp4")
    with pytest.raises(VideoError, match="has no frames"):
        VideoReader(tmp_path)


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("this is a letter, not a video\n" * 50)
    with pytest.raises(VideoError, match="text.mp4"):
        VideoReader(path)


def test_a_file_that_was_cut_off_is_named(clip):
    clip.write_bytes(clip.read_bytes()[:-200])
    with pytest.raises(VideoError, match="clip.mp4.* cannot be read as a video"):
        VideoReader(clip)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "noise.mp4", [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(20)])
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start], "big")
    data[start + size // 2 : start + size - 4] = b"\xff" * (size - 4 - size // 2)
    path.write_bytes(data)
    reader = VideoReader(path)
    with pytest.raises(VideoError, match=r"frame \d+ of .*noise.mp4.* damaged"):
        list(reader)


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "beep.wav"
    path.write_bytes(wav(np.zeros(800, np.int16)))
    with pytest.raises(VideoError, match="beep.wav.* no video stream"):
        VideoReader(path)


def wav(samples, rate=8000):
    data = samples.tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return header + struct.pack("<4sI", b"data", len(data)) + data


def test_a_damaged_image_or_one_of_another_size_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), gray(10))
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(VideoError, match="1.png.* damaged"):
        list(VideoReader(tmp_path))
    cv2.imwrite(str(tmp_path / "1.png"), gray(10, (32, 48)))
    with pytest.raises(VideoError, match="frame 1 of .* is 32x48 pixels, but the first one is 64x48"):
        list(VideoReader(tmp_path))
