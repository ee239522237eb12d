"""What VideoReader makes of damaged, cut off and unusual files."""

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers import damage
from helpers.videos import moving_frames, number_of, numbered_frame, write_numbered_images, write_video
from vod2.errors import VideoError
from vod2.video import VideoReader, video_status

COUNT = 40


def clip(path, codec="libx264", **options):
    return write_video(path, moving_frames(COUNT), codec, gop=10, b_frames=options.pop("b_frames", 2), **options)


def read(path):
    reader = VideoReader(path)
    return list(reader), reader


@pytest.mark.parametrize(
    "name", ["v.mp4", "v.mkv", "v.ts", "v.avi", "v.h264", "v.mov", "mpeg4.avi", "mpeg4.mp4", "vp8.webm", "vp9.webm"]
)
def test_an_intact_video_is_ok(tmp_path, name):
    codec = {"mpeg4": "mpeg4", "vp8": "libvpx", "vp9": "libvpx-vp9"}.get(name.split(".")[0], "libx264")
    frames, reader = read(clip(tmp_path / name, codec))
    assert len(frames) == COUNT
    assert (tuple(reader.status), reader.gaps) == (("ok", COUNT, COUNT, 0, ""), [])


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_a_variable_rate_is_no_damage_and_gives_each_frame_once(tmp_path, name):
    times = np.cumsum([0, 1, 7, 1, 1, 3, 2, 2, 1, 9, 1, 1, 5, 3, 1, 1, 1, 4]).tolist()
    frames = [numbered_frame(i) for i in range(18)]
    images, reader = read(write_video(tmp_path / name, frames, gop=5, times=times))
    assert [number_of(image) for image in images] == list(range(18))
    assert (reader.status.state, reader.gaps) == ("ok", [])


def test_a_long_pause_is_no_damage(tmp_path):
    times = [*range(10), *range(100, 108)]
    _, reader = read(write_video(tmp_path / "v.mkv", [numbered_frame(i) for i in range(18)], times=times))
    assert (reader.status.state, reader.gaps) == ("ok", [])


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_flipped_bytes_are_counted_and_cost_no_readable_frame(tmp_path, codec, suffix):
    path = clip(tmp_path / f"v{suffix}", codec, b_frames=0)
    expected, _ = read(path)
    damage.flip_bytes(path, packet=15)
    frames, reader = read(path)
    assert reader.status.state == "partial"
    assert 1 <= reader.status.bad_packets <= 5  # up to the next keyframe
    assert f"{path.name}' is damaged" in reader.status.reason and "\n" not in reader.status.reason
    assert reader.status.frames_read == len(frames) >= COUNT - 1
    intact = [any(np.array_equal(frame, other) for other in frames) for frame in expected]
    assert all(intact[:15] + intact[20:])


def test_a_packet_without_sense_leaves_a_gap(tmp_path):
    path = clip(tmp_path / "v.mp4", b_frames=0)
    damage.lose_packet(path, packet=15)
    frames, reader = read(path)
    assert reader.status[:4] == ("partial", COUNT - 1, COUNT, reader.status.bad_packets)
    assert len(frames) == COUNT - 1 and reader.status.bad_packets >= 1
    assert "1 of 40 frames is missing" in reader.status.reason
    assert reader.gaps == [(15, 1)]
    with_gaps = list(reader.with_gaps())
    assert [i for i, frame in enumerate(with_gaps) if frame is None] == [15] and len(with_gaps) == COUNT
    np.testing.assert_array_equal(with_gaps[30], reader.read([30])[30])


def test_a_hole_in_a_matroska_file_is_a_gap(tmp_path):
    path = clip(tmp_path / "v.mkv")
    size = path.stat().st_size
    damage.overwrite(path, size // 3, bytes(size // 3))
    frames, reader = read(path)
    status = reader.status
    assert status.state == "partial" and len(frames) == status.frames_read < status.frames_expected <= COUNT
    assert [gap.missing for gap in reader.gaps] == [status.frames_expected - status.frames_read]


def test_an_mp4_without_its_index_is_unreadable(tmp_path):
    path = clip(tmp_path / "v.mp4")
    damage.lose_index(path)
    status = video_status(path)
    assert (status.state, status.frames_read) == ("unreadable", 0)
    assert "v.mp4' cannot be read as a video" in status.reason
    with pytest.raises(VideoError, match="cut off"):
        VideoReader(path)


def test_an_mp4_that_ends_early_behind_its_index_gives_what_is_there(tmp_path):
    path = clip(tmp_path / "v.mp4")
    front = tmp_path / "front.mp4"
    with av.open(str(path)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    assert video_status(front).state == "ok"
    damage.cut_off(front)
    frames, reader = read(front)
    assert reader.status.state == "partial" and reader.status.frames_expected == COUNT
    assert 0 < len(frames) == reader.status.frames_read < COUNT


@pytest.mark.parametrize(("name", "codec"), [("v.mkv", "libx264"), ("v.webm", "libvpx"), ("v.avi", "mpeg4")])
def test_a_file_that_was_cut_off_gives_the_frames_before(tmp_path, name, codec):
    path = clip(tmp_path / name, codec, b_frames=0)
    expected, _ = read(path)
    damage.cut_off(path)
    frames, reader = read(path)
    status = reader.status
    assert (status.state, status.frames_expected) == ("partial", COUNT)
    assert 5 < status.frames_read == len(frames) < COUNT
    assert f"{COUNT - len(frames)} of {COUNT} frames are missing" in status.reason
    assert all(np.array_equal(frame, other) for frame, other in zip(frames[:-1], expected, strict=False))


def test_sound_that_goes_on_after_the_pictures_is_no_damage(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_frames(COUNT):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(video.encode(None))
        container.mux(sound.encode(damage.silence(5)))
        container.mux(sound.encode(None))
    assert video_status(path)[:4] == ("ok", COUNT, COUNT, 0)


@pytest.mark.parametrize(
    "harm", [damage.lose_everything, damage.lose_pictures, damage.lose_duration, damage.lose_all_packets]
)
def test_a_file_without_a_picture_is_unreadable_and_named_in_one_sentence(tmp_path, harm):
    path = clip(tmp_path / "v.mp4")
    harm(path)
    status = video_status(path)
    assert (status.state, status.frames_read) == ("unreadable", 0)
    assert "v.mp4" in status.reason and "\n" not in status.reason
    with pytest.raises(VideoError, match="v.mp4"):
        VideoReader(path)


def test_a_single_frame_without_a_duration_is_read(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_frames(1))
    content = path.read_bytes()
    # The headers of movie, track and media and the table of times: all say that it lasts no time.
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20), (b"stts", 16)):
        damage.overwrite(path, content.index(box) + offset, struct.pack(">I", 0))
    frames, reader = read(path)
    assert len(frames) == 1 and reader.status.state == "ok"


def test_a_damaged_image_of_a_folder_is_left_out_and_named(tmp_path):
    write_numbered_images(tmp_path, [f"{i}.png" for i in range(6)])
    for number in (2, 3, 5):
        Path(tmp_path, f"{number}.png").write_bytes(b"broken")
    frames, reader = read(tmp_path)
    assert [number_of(frame) for frame in frames] == [0, 1, 4]
    assert reader.gaps == [(2, 2)]
    assert [frame is None for frame in reader.with_gaps()] == [False, False, True, True, False]
    assert reader.status[:4] == ("partial", 3, 6, 3)
    assert "2.png" in reader.status.reason and "2 more of 6 images" in reader.status.reason


def test_a_folder_of_damaged_images_is_unreadable(tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    assert video_status(tmp_path).state == "unreadable"
    assert "1.png" in video_status(tmp_path).reason


def test_status_and_gaps_are_those_of_the_latest_iteration(tmp_path):
    write_numbered_images(tmp_path, ["0.png", "1.png", "2.png"])
    reader = VideoReader(tmp_path)
    assert reader.status is None
    Path(tmp_path, "1.png").write_bytes(b"broken")
    assert (len(list(reader)), reader.status.state, reader.gaps) == (2, "partial", [(1, 1)])
    cv2.imwrite(str(tmp_path / "1.png"), numbered_frame(1))
    assert (len(list(reader)), reader.status.state, reader.gaps) == (3, "ok", [])
