"""Part of a video as an animated picture."""

import cv2
import numpy as np
import pytest

from helpers.models import ROOT
from helpers.modules import load_module
from helpers.videos import number_of, numbered_frame, write_video
from vod2.errors import UserError

tool = load_module(ROOT / "tools" / "animate_video.py")


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "in.mp4", [numbered_frame(index) for index in range(8)])


def test_the_picture_has_the_frames_that_were_asked_for_at_their_speed(video, tmp_path):
    tool.main([str(video), str(tmp_path / "out.webp"), "--frames", "2:6", "--scale", "2"])
    read, animation = cv2.imreadanimation(str(tmp_path / "out.webp"))
    assert read and [number_of(frame[..., :3]) for frame in animation.frames] == [2, 3, 4, 5]
    height, width = numbered_frame(0).shape[:2]
    assert animation.frames[0].shape[:2] == (2 * height, 2 * width)
    assert np.allclose(animation.durations, 1000 / 25)


@pytest.mark.parametrize("frames", ["6:2", "x", "-1:3", "3"])
def test_a_range_that_is_none_is_refused(video, tmp_path, frames, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(video), str(tmp_path / "out.webp"), f"--frames={frames}"])
    assert "FIRST:END" in capsys.readouterr().err and not (tmp_path / "out.webp").exists()


def test_frames_beyond_the_end_and_other_formats_are_refused(video, tmp_path):
    with pytest.raises(UserError, match="has 8 frames, expected more than 9"):
        tool.main([str(video), str(tmp_path / "out.webp"), "--frames", "9:"])
    with pytest.raises(SystemExit):
        tool.main([str(video), str(tmp_path / "out.gif")])
