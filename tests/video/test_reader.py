"""VideoReader on videos and folders made here."""

import struct
from fractions import Fraction

import cv2
import numpy as np
import pytest

from helpers.videos import moving_frames
from helpers.videos import write_video as encode
from vod2.errors import VideoError
from vod2.video import VideoReader, VideoWriter, seeking

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
    (tmp_path / "._frame9.png").write_bytes(b"of another system")
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


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "beep.wav"
    path.write_bytes(wav(np.zeros(800, np.int16)))
    with pytest.raises(VideoError, match="beep.wav.* no video stream"):
        VideoReader(path)


def wav(samples, rate=8000):
    data = samples.tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return header + struct.pack("<4sI", b"data", len(data)) + data


def test_an_image_of_another_size_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), gray(10))
    cv2.imwrite(str(tmp_path / "1.png"), gray(10, (32, 48)))
    with pytest.raises(VideoError, match="frame 1 of .* is 32x48 pixels, but the first one is 64x48"):
        list(VideoReader(tmp_path))


def shuffled(count, seed=0):
    return np.random.default_rng(seed).permutation(count).tolist()


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("h264.mp4", "libx264", 3),
        ("h264.mkv", "libx264", 2),
        ("h264.ts", "libx264", 2),
        ("h264.avi", "libx264", 2),  # without presentation times
        ("h264.h264", "libx264", 2),  # without any times
        ("mpeg4.mp4", "mpeg4", 2),
        ("mpeg4.avi", "mpeg4", 2),
        ("mpeg4.mkv", "mpeg4", 0),
        ("mpeg2.mpg", "mpeg2video", 2),
    ],
)
def test_frames_by_number_are_those_of_a_full_decode(tmp_path, name, codec, b_frames):
    reader = VideoReader(encode(tmp_path / name, moving_frames(31), codec, gop=8, b_frames=b_frames))
    expected = list(reader)
    assert reader.frame_count() == len(expected) == 31
    for index in shuffled(31):  # one by one, forward and backward
        np.testing.assert_array_equal(reader.read([index])[index], expected[index])
    for clip in np.array_split(shuffled(31, seed=1), 7):
        frames = reader.read(clip.tolist())
        assert list(frames) == sorted(clip)
        assert all(np.array_equal(frame, expected[index]) for index, frame in frames.items())


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_numbers_count_frames_and_not_time(tmp_path, name):
    times = np.cumsum([0, 1, 7, 1, 1, 30, 2, 2, 1, 90, 1, 1, 5, 3, 1, 1, 1, 40]).tolist()
    reader = VideoReader(encode(tmp_path / name, moving_frames(18), gop=5, times=times))
    expected = list(reader)
    assert reader.frame_count() == len(expected) == 18
    for index in shuffled(18):
        np.testing.assert_array_equal(reader.read([index])[index], expected[index])


def test_each_frame_is_decoded_once_for_a_clip(tmp_path, decoded):
    reader = VideoReader(encode(tmp_path / "v.mp4", moving_frames(40), gop=40))
    reader.read([20, 9, 14, 9, 11])
    assert decoded == list(range(21))


def test_a_stream_goes_on_where_it_stopped(tmp_path, decoded):
    reader = VideoReader(encode(tmp_path / "v.mp4", moving_frames(30), gop=12))
    for index in range(30):
        reader.read([index])
    assert decoded == list(range(30))


def test_a_far_frame_is_decoded_from_the_keyframe_before_it(tmp_path, decoded):
    reader = VideoReader(encode(tmp_path / "v.mp4", moving_frames(60), codec="mpeg4", gop=10, b_frames=0))
    reader.read([57])
    assert decoded == list(range(decoded[0], 58)) and len(decoded) <= 10


def test_a_seek_that_lands_too_late_is_made_up_for(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", moving_frames(40), gop=8)
    table = seeking.read_table(path)
    late = table._replace(seek_times=np.full_like(table.seek_times, table.seek_times[-1]))
    frame = seeking.FrameCursor(path, late).frame(12)
    assert frame.pts == table.times[12]


def test_frames_of_a_folder_are_read_by_number(tmp_path):
    for number, value in ((10, 200), (9, 100), (0, 50)):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), gray(value))
    reader = VideoReader(tmp_path)
    assert {index: int(frame.mean()) for index, frame in reader.read([2, 0]).items()} == {0: 50, 2: 200}
    with pytest.raises(VideoError, match=r"no frame 3 in .* 3 frames"):
        reader.read([3])


def test_a_closed_reader_opens_its_file_again(clip):
    reader = VideoReader(clip)
    first = reader.read([2])[2]
    reader.close()
    np.testing.assert_array_equal(reader.read([2])[2], first)
    assert reader.read([]) == {}


@pytest.mark.parametrize("index", [-1, 5])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_frame_that_does_not_exist_is_named(tmp_path, name, index):
    reader = VideoReader(write_video(tmp_path / name, [gray(value) for value in GRAYS]))
    with pytest.raises(VideoError, match=rf"frame {index} .*{name}"):
        reader.read([index])


def test_frames_before_the_damage_can_be_read_and_those_after_it_are_named(tmp_path):
    path = encode(tmp_path / "noise.mp4", moving_frames(20), codec="mpeg4", gop=5, b_frames=0)
    expected = list(VideoReader(path))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start], "big")
    data[start + size // 2 : start + size - 4] = b"\xff" * (size - 4 - size // 2)
    path.write_bytes(data)
    reader = VideoReader(path)
    np.testing.assert_array_equal(reader.read([3])[3], expected[3])
    with pytest.raises(VideoError, match=r"frame 19 of .*noise.mp4"):
        reader.read([19])
    np.testing.assert_array_equal(reader.read([3])[3], expected[3])
