"""Good videos with something unusual, and what is refused before it does harm."""

import os
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers.videos import (
    SIZE,
    moving_frames,
    numbered_frame,
    write_browser_recording,
    write_numbered_images,
    write_packed_avi,
    write_video,
)
from vod2.errors import VideoError
from vod2.video import MAX_PIXELS, VideoReader, VideoWriter, video_status

REAL = Path(os.environ.get("VOD2_REAL_DIR", "absent"), "videos")


def assert_numbered_reads_are_those_of_a_full_decode(path: Path, count: int | None = None) -> None:
    reader = VideoReader(path)
    expected = list(reader)
    assert reader.status.state == "ok" and reader.gaps == []
    assert count is None or len(expected) == count
    assert reader.frame_count() == len(expected)
    for index in np.random.default_rng(0).permutation(len(expected)).tolist():
        # A new decoder each time, or one that goes on: both must give the frame.
        if index % 2:
            reader.close()
        np.testing.assert_array_equal(reader.read([index])[index], expected[index])


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_title_that_is_not_utf8_does_not_matter(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "summer-holidays"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    replace_bytes(path, b"summer-holidays", b"\xe9t\xe9-holidays...")
    assert_numbered_reads_are_those_of_a_full_decode(path, 5)


def test_a_relative_name_with_colons_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", moving_frames(5))
    Path("clip.mp4").rename("12:30:05.mp4")
    assert_numbered_reads_are_those_of_a_full_decode(Path("12:30:05.mp4"), 5)


def test_an_attached_file_is_no_part_of_the_video(tmp_path):
    path = tmp_path / "subtitled.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.add_attachment("font.ttf", "application/x-truetype-font", b"letters" * 50)
        for frame in moving_frames(7):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    replace_bytes(path, b"DURATION", b"DURATIOM")  # only the end of all streams is known
    assert_numbered_reads_are_those_of_a_full_decode(path, 7)


def test_a_codec_that_nobody_knows_is_named_as_the_reason(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_frames(3))
    replace_bytes(path, b"avc1", b"zzz1")
    with pytest.raises(VideoError, match=r"v\.mp4.* codec that this FFmpeg cannot decode: convert it"):
        VideoReader(path)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe\.mp4' is a pipe.* save it to a file"):
        VideoReader(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("address", ["http://host/film.mp4", "rtsp://door:554/live", Path("rtsp://door/live")])
def test_an_address_is_refused_with_what_to_do(address):
    with pytest.raises(VideoError, match="is an address.* download it, or .*--webcam"):
        VideoReader(address)
    assert "is an address" in video_status(address).reason


def png_header(path: Path, width: int, height: int) -> None:
    """A PNG that claims a size and holds one line of black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 + 3 * width))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("side", [12_000, 20_000, 50_000])
def test_an_image_of_too_many_pixels_is_left_out_of_a_folder_unread(tmp_path, monkeypatch, side):
    write_numbered_images(tmp_path, ["0.png", "2.png"])
    png_header(tmp_path / "1.png", side, side)
    decoded, imread = [], cv2.imread
    monkeypatch.setattr(cv2, "imread", lambda path, *flags: decoded.append(Path(path).name) or imread(path, *flags))
    reader = VideoReader(tmp_path)
    assert len(list(reader)) == 2 and reader.status.state == "partial"
    assert "1.png" in reader.status.reason and "1.png" not in decoded
    assert f"the limit of {MAX_PIXELS}" in reader.status.reason
    with pytest.raises(VideoError, match=r"1\.png"):
        reader.read([1])


def test_the_limit_of_pixels_is_named_and_can_be_chosen(tmp_path):
    write_numbered_images(tmp_path, ["0.png"])
    height, width = SIZE
    assert len(list(VideoReader(tmp_path, max_pixels=height * width))) == 1
    with pytest.raises(
        VideoError, match=rf"0\.png' has {width}x{height} pixels, more than the limit of 1000.*MAX_PIXELS"
    ):
        VideoReader(tmp_path, max_pixels=1000)
    png_header(tmp_path / "0.png", 12_000, 12_000)
    with pytest.raises(VideoError, match=rf"12000x12000 pixels, more than the limit of {MAX_PIXELS}"):
        VideoReader(tmp_path)
    with pytest.raises(VideoError, match="12000x12000 pixels"):
        VideoReader(tmp_path / "0.png")  # FFmpeg takes it for a video of one frame


def test_a_video_of_too_many_pixels_is_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_frames(3))
    assert len(list(VideoReader(path, max_pixels=64 * 48))) == 3
    with pytest.raises(VideoError, match=r"v\.mp4' has 64x48 pixels, more than the limit of 3000"):
        VideoReader(path, max_pixels=3000)


def test_frames_that_turn_out_larger_than_the_header_says_are_not_decoded(tmp_path):
    """Motion JPEG: every packet has a size of its own."""
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, height in enumerate([48, 48, 48, 480, 48]):
            picture = moving_frames(1, (height, 64))[0]
            packet = av.Packet(cv2.imencode(".jpg", picture)[1].tobytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            packet.is_keyframe = True
            container.mux(packet)
    with pytest.raises(VideoError, match="frame 3 of .* is 64x480 pixels"):  # below the limit: decoded, and refused
        list(VideoReader(path))
    reader = VideoReader(path, max_pixels=64 * 48)
    assert [frame.shape for frame in reader] == [(48, 64, 3)] * 4 and reader.gaps == [(3, 1)]


def test_a_recording_of_a_browser_has_its_mean_rate_and_its_times(tmp_path):
    times = [0, 36, 72, 102, 140, 171, 2500, 2533, 2569, 2600]
    write_browser_recording(tmp_path / "talk.webm", times)
    reader = VideoReader(tmp_path / "talk.webm")
    assert float(reader.fps) == pytest.approx(9 / 2.6, abs=0.01)
    assert [round(1000 * reader.time) for _ in reader] == times
    assert reader.status.state == "ok" and reader.frame_count() == 10
    for index in (7, 2, 9):
        assert reader.read([index])[index].shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_the_times_of_a_variable_rate_are_told(tmp_path, name):
    times = np.cumsum([0, 1, 7, 1, 1, 30, 2, 2, 1]).tolist()
    reader = VideoReader(write_video(tmp_path / name, moving_frames(9), times=times))
    assert [float(reader.time) for _ in reader] == pytest.approx([time / 25 for time in times], abs=0.001)


@pytest.mark.parametrize("name", ["v.avi", "v.h264"])
def test_files_without_times_have_those_of_their_rate(tmp_path, name):
    reader = VideoReader(write_video(tmp_path / name, moving_frames(9)))
    assert [float(reader.time) for _ in reader] == pytest.approx([index / float(reader.fps) for index in range(9)])


def test_images_of_a_folder_have_the_times_of_their_numbers(tmp_path):
    write_numbered_images(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"broken")
    reader = VideoReader(tmp_path)
    assert [float(reader.time) for _ in reader] == [0, 0.08]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("encoders", [{"libx264"}, {"mpeg4"}])
@pytest.mark.parametrize("fps", [Fraction(10 * 1000, 6020), Fraction(30000, 1001)])
def test_written_frames_keep_their_times_and_the_file_its_length(tmp_path, monkeypatch, suffix, encoders, fps):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available & encoders)
    times = [0, 0.036, 0.072, 0.102, 0.5, 3.2, 3.21, 3.2101, 6, 6.02]
    with VideoWriter(tmp_path / f"v{suffix}", fps, SIZE[::-1]) as video:
        for index, time in enumerate(times):
            video.write(numbered_frame(index), time)
    with av.open(str(tmp_path / f"v{suffix}")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=0.002)
        assert container.duration / 1e6 == pytest.approx(6.02, abs=0.7)
    reader = VideoReader(tmp_path / f"v{suffix}")
    assert [float(reader.time) for _ in reader] == pytest.approx(times, abs=0.002)


def test_a_constant_rate_stays_exactly_constant_when_it_is_written_with_times(tmp_path):
    rate = Fraction(30000, 1001)
    with VideoWriter(tmp_path / "v.mp4", rate, SIZE[::-1]) as video:
        for index in range(12):
            video.write(numbered_frame(index), index / rate)
    reader = VideoReader(tmp_path / "v.mp4")
    assert reader.fps == rate and [reader.time for _ in reader] == [index / rate for index in range(12)]


def test_times_that_do_not_rise_lose_no_frame(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 25, SIZE[::-1]) as video:
        for index, time in enumerate([0, 0, 0.2, 0.1, 0.3]):
            video.write(numbered_frame(index), time)
    reader = VideoReader(tmp_path / "v.mp4")
    assert [float(reader.time) for _ in reader] == pytest.approx([0, 0, 0.2, 0.2, 0.3], abs=0.003)


def test_avi_which_has_one_rate_says_that_it_cannot_keep_the_times(tmp_path, caplog):
    with VideoWriter(tmp_path / "v.avi", 5, SIZE[::-1]) as video:
        for index, time in enumerate([0, 0.01, 0.02, 0.03, 2]):
            video.write(numbered_frame(index), time)
    assert caplog.text.count("AVI has a constant rate") == 1
    assert len(list(VideoReader(tmp_path / "v.avi"))) == 5


def test_packed_frames_of_divx_have_their_own_numbers_and_none_is_missing(tmp_path):
    assert_numbered_reads_are_those_of_a_full_decode(write_packed_avi(tmp_path / "v.avi", moving_frames(31)), 31)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_decoder_that_must_know_the_encoder_learns_it_before_it_seeks(tmp_path, suffix):
    """x264 of before build 151 wrote 4:4:4 in a way of its own; its number is in the first packet only."""
    path, noise = tmp_path / f"v{suffix}", np.random.default_rng(0)
    options = {"qp": "0", "x264-params": "keyint=8:scenecut=0:partitions=i8x8:8x8dct=1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 8, 0
        for index, frame in enumerate(moving_frames(24)):
            noisy = np.clip(frame.astype(int) + noise.integers(-20, 21, frame.shape), 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(noisy, format="bgr24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    path.write_bytes(re.sub(rb"core \d\d\d", b"core 142", path.read_bytes()))
    assert_numbered_reads_are_those_of_a_full_decode(path, 24)


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("v.mpg", "mpeg1video", 0),
        ("v.mpg", "mpeg1video", 2),
        ("v.vob", "mpeg2video", 0),
        ("v.mpg", "mpeg4", 2),
        ("v.asf", "libx264", 2),
        ("v.asf", "mpeg2video", 2),
        ("v.flv", "libx264", 2),
        ("v.ts", "mpeg2video", 2),
    ],
)
def test_containers_whose_times_are_not_those_of_their_frames(tmp_path, name, codec, b_frames):
    path = write_video(tmp_path / name, moving_frames(31), codec, gop=8, b_frames=b_frames)
    reader = VideoReader(path)
    expected = list(reader)
    assert len(expected) == 31 and reader.gaps == []
    for index in np.random.default_rng(0).permutation(31).tolist():
        np.testing.assert_array_equal(reader.read([index])[index], expected[index])


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="VOD2_REAL_DIR does not hold videos")
def test_every_numbered_read_of_real_videos_is_that_of_a_full_decode():
    paths = sorted(path for path in REAL.iterdir() if path.suffix != ".txt")
    assert paths
    for path in paths:
        reader = VideoReader(path)
        expected = list(reader.with_gaps())
        is_whole = reader.status.state == "ok"
        for index in np.random.default_rng(0).permutation(len(expected)).tolist():
            try:
                image = reader.read([index])[index]
            except VideoError:
                assert not is_whole, f"{path}, frame {index}"
                continue
            assert np.array_equal(image, expected[index]), f"{path}, frame {index}"
