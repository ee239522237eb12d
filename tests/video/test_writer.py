"""VideoWriter: what it leaves on the disk, also when it is interrupted."""

import av
import numpy as np
import pytest

from vod2.errors import VideoError
from vod2.video import VideoWriter


def frame(value=100, width=64, height=48):
    return np.full((height, width, 3), value, np.uint8)


def decode(path):
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_frames_come_back_at_the_rate_that_was_given(tmp_path):
    path = tmp_path / "new" / "clip.mp4"
    with VideoWriter(path, 12.5, (64, 48)) as video:
        for value in (0, 100, 250):
            video.write(frame(value))
        assert not path.exists()
    assert names(path.parent) == ["clip.mp4"]
    np.testing.assert_allclose([picture.mean() for picture in decode(path)], [0, 100, 250], atol=5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.pix_fmt) == (12.5, "yuv420p")


@pytest.mark.parametrize("encoders", [{"libx264"}, {"mpeg4"}])
def test_odd_sides_are_padded_by_either_encoder(tmp_path, monkeypatch, encoders):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available & encoders)
    with VideoWriter(tmp_path / "odd.mp4", 25, (63, 47)) as video:
        video.write(frame(200, 63, 47))
    (picture,) = decode(tmp_path / "odd.mp4")
    assert picture.shape == (48, 64, 3)
    np.testing.assert_allclose(picture, 200, atol=4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_video_is_kept_playable_beside_the_complete_one(tmp_path, error):
    path = tmp_path / "clip.mp4"
    path.write_text("the video of last time")
    with pytest.raises(error), VideoWriter(path, 25, (64, 48)) as video:
        for _ in range(4):
            video.write(frame())
        raise error
    assert names(tmp_path) == ["clip.mp4", "clip.partial.mp4"]
    assert len(decode(tmp_path / "clip.partial.mp4")) == 4
    assert path.read_text() == "the video of last time"


def test_without_a_frame_there_is_an_error_and_no_file(tmp_path):
    with pytest.raises(VideoError, match="no frame was written"), VideoWriter(tmp_path / "clip.mp4", 25, (64, 48)):
        pass
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "clip.mp4", 25, (64, 48)):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_wrong_names_rates_and_frames_are_refused(tmp_path):
    with pytest.raises(VideoError, match="clip.txt.* .mp4"):
        VideoWriter(tmp_path / "clip.txt", 25, (64, 48))
    with pytest.raises(ValueError, match="fps=0"):
        VideoWriter(tmp_path / "clip.mp4", 0, (64, 48))
    with (
        pytest.raises(ValueError, match=r"\(64, 48, 3\) uint8, expected \(48, 64, 3\)"),
        VideoWriter(tmp_path / "clip.mp4", 25, (64, 48)) as video,
    ):
        video.write(frame(0, 48, 64))
