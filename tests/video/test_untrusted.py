"""Videos of strangers: lists of other files, and more than is allowed."""

from fractions import Fraction

import av
import numpy as np
import pytest

from helpers.videos import moving_frames, write_video
from vod2.errors import VideoError
from vod2.video import Gap, UntrustedVideo, VideoLimits, VideoReader, without_path

LISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration='
    '"PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1"><BaseURL>'
    "secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "text": "root:x:0:0:root:/root:/bin/bash\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos beside which an upload may lie."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("secret.mp4", "secret.ts"):
        write_video(folder / name, moving_frames(6))
    return folder


@pytest.mark.parametrize("suffix", ["", ".mp4", ".m3u8", ".ffconcat", ".mpd", ".txt"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_other_files_is_no_video(folder, kind, suffix):
    path = folder / f"upload-{kind}{suffix}"
    path.write_text(LISTS[kind])
    with pytest.raises(VideoError, match="expected one of MP4"):
        UntrustedVideo(path)


def test_without_the_check_ffmpeg_reads_what_a_list_names(folder):
    """Otherwise the test above would show nothing."""
    path = folder / "naive"
    path.write_text(LISTS["concat"])
    with av.open(str(path)) as container:
        assert container.format.name == "concat" and len(container.streams.video) == 1


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("mkv", "libx264"),
        ("webm", "libvpx"),
        ("avi", "mpeg4"),
        ("ts", "libx264"),
    ],
)
def test_common_videos_are_read_whatever_they_are_called(tmp_path, suffix, codec):
    frames = moving_frames(6)
    path = write_video(tmp_path / f"in.{suffix}", frames, codec=codec).rename(tmp_path / "video")
    assert len(list(UntrustedVideo(path))) == 6
    for found, wanted in zip(UntrustedVideo(path), VideoReader(path), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (VideoLimits(frames=11), "more than 11 frames"),
        (VideoLimits(seconds=0.4), "more than 0.4 s"),
        (VideoLimits(pixels=3071), "3071"),
    ],
)
def test_a_video_beyond_a_limit_is_refused_before_it_is_read(tmp_path, limits, said):
    path = write_video(tmp_path / "in.mp4", moving_frames(12))
    with pytest.raises(VideoError, match=said):
        UntrustedVideo(path, limits)
    exact = UntrustedVideo(path, VideoLimits(frames=12, seconds=12 / 25, pixels=64 * 48))
    assert len(list(exact)) == 12


def test_a_video_that_says_nothing_of_its_length_ends_at_the_limit(tmp_path):
    path = write_video(tmp_path / "in.ts", moving_frames(12))
    video = UntrustedVideo(path, VideoLimits(frames=5))
    read = []
    with pytest.raises(VideoError, match="more than 5 frames"):
        read.extend(video)
    video = UntrustedVideo(path, VideoLimits(seconds=0.2))
    with pytest.raises(VideoError, match="more than 0.2 s"):
        list(video)


def test_lost_frames_count_and_are_not_held_in_memory(tmp_path, monkeypatch):
    path = write_video(tmp_path / "in.mp4", moving_frames(3))
    video = UntrustedVideo(path, VideoLimits(frames=100))

    def decode(self):
        yield np.zeros((48, 64, 3), np.uint8)
        self.time, self.gaps = Fraction(1), [Gap(1, 2**62)]
        yield np.zeros((48, 64, 3), np.uint8)

    monkeypatch.setattr(VideoReader, "_decode", decode)
    with pytest.raises(VideoError, match="more than 100 frames"):
        for _ in video.with_gaps():
            pass


def test_a_message_names_a_video_as_its_owner_does(tmp_path):
    path = tmp_path / "7f" / "video"
    said = f"{str(path)!r} is damaged (see {path})"
    assert without_path(said, path, "cat.mp4") == "'cat.mp4' is damaged (see cat.mp4)"
    assert "\x1b" not in without_path(f"{str(path)!r} is damaged", path, "a\x1b[2J")
