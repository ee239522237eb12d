"""Damaged copies of videos, from the command line."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.videos import moving_frames, write_video
from vod2.data.damage import DamageConfig, burst_at, damage_frame, plan_bursts
from vod2.errors import UserError
from vod2.locking import locked_file
from vod2.video import VideoReader, VideoWriter

TOOL = Path(__file__).parents[2] / "tools" / "damage_videos.py"
LENGTH = 30


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(TOOL))["main"]


@pytest.fixture
def videos(tmp_path):
    """A video file, and in a folder one of images."""
    root = tmp_path / "in"
    (root / "day" / "b").mkdir(parents=True)
    frames = moving_frames(LENGTH)
    write_video(root / "a.mp4", frames)
    for index, frame in enumerate(frames):
        cv2.imwrite(f"{root}/day/b/{index:03d}.png", frame)
    return root


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_copies_are_damaged_as_their_record_says_and_the_originals_stay(main, videos, tmp_path):
    before = snapshot(videos)
    main([str(videos), str(tmp_path / "out"), "--seed", "4", "--share", "0.5"])
    assert snapshot(videos) == before
    config = DamageConfig(seed=4, share=0.5)
    frames = moving_frames(LENGTH)
    for index in range(LENGTH):
        image = cv2.imread(f"{tmp_path}/out/day/b/{index:03d}.png")
        assert np.array_equal(image, damage_frame(frames[index], config, "day/b", LENGTH, index))
    for name in ("a", "day/b"):
        record = json.loads((tmp_path / "out" / f"{name}.damage.json").read_text())
        bursts = {index: burst_at(config, name, LENGTH, index) for index in range(LENGTH)}
        assert record["frames"] == {str(i): {b.kind: b.strength} for i, b in bursts.items() if b is not None}
        assert record["config"]["seed"] == 4


def test_a_video_file_keeps_its_frames_rate_and_what_is_clean(main, videos, tmp_path):
    main([str(videos / "a.mp4"), str(tmp_path / "out"), "--kinds", "occlusion", "--strengths", "1,1"])
    source, copy = VideoReader(videos / "a.mp4"), VideoReader(tmp_path / "out" / "a.mp4")
    assert (copy.fps, copy.size, copy.frame_count()) == (source.fps, source.size, LENGTH)
    damaged = {b.start + i for b in plan_bursts(DamageConfig(kinds=("occlusion",), strengths=(1, 1)), "a", LENGTH)
               for i in range(b.length)}  # fmt: skip
    changes = [np.abs(one.astype(int) - other).mean() for one, other in zip(source, copy, strict=True)]
    assert min(changes[t] for t in damaged) > 2 * max(changes[t] for t in range(LENGTH) if t not in damaged)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_constant_rate_is_encoded_without_times(main, tmp_path, name, monkeypatch):
    """With times, a copy has no B-frames, and is up to twice as large."""
    write_video(tmp_path / name, moving_frames(LENGTH))
    times = []
    write = VideoWriter.write
    monkeypatch.setattr(VideoWriter, "write", lambda self, frame, time: (times.append(time), write(self, frame, time)))
    main([str(tmp_path / name), str(tmp_path / "out")])
    assert times == [None] * LENGTH


@pytest.mark.parametrize(("name", "copied"), [("a.mp4", "a.mp4"), ("a.mkv", "a.mkv"), ("a.ts", "a.mp4")])
def test_a_variable_rate_keeps_the_times_of_its_frames(main, tmp_path, name, copied):
    times = np.cumsum([1, 7, 1, 1, 30, 2, 2, 1] * 2).tolist()
    write_video(tmp_path / name, moving_frames(len(times)), times=times)
    main([str(tmp_path / name), str(tmp_path / "out")])
    source, copy = VideoReader(tmp_path / name), VideoReader(tmp_path / "out" / copied)
    expected = [float(source.time) for _ in source]
    assert np.ptp(np.diff(expected)) > 1
    assert [float(copy.time) for _ in copy] == pytest.approx(expected, abs=0.002)


def test_a_run_goes_on_where_it_stopped_and_other_settings_are_refused(main, videos, tmp_path, capsys):
    out = tmp_path / "out"
    main([str(videos), str(out)])
    before = snapshot(out)
    before.pop(out / "a.mp4")  # an encoder with several threads need not write the same bytes again
    (out / "a.mp4").unlink()
    (out / "a.damage.json").unlink()
    main([str(videos), str(out)])
    assert "1 videos written, 1 were there already" in capsys.readouterr().out
    after = snapshot(out)
    assert after.pop(out / "a.mp4")
    assert after == before
    with pytest.raises(UserError, match="was damaged with"):
        main([str(videos), str(out), "--seed", "9"])


def test_a_folder_that_another_process_writes_is_refused(main, videos, tmp_path):
    with locked_file(tmp_path / "out" / ".writing.lock", "processes"):
        with pytest.raises(UserError, match="in use by process .* give another folder for the copies"):
            main([str(videos), str(tmp_path / "out")])
    main([str(videos), str(tmp_path / "out")])
    assert (tmp_path / "out" / "a.mp4").exists() and not (tmp_path / "out" / ".writing.lock").exists()


def test_nothing_is_overwritten(main, videos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_text("mine")
    with pytest.raises(UserError, match="a.mp4 is there without a.damage.json"):
        main([str(videos / "a.mp4"), str(out)])
    assert (out / "a.mp4").read_text() == "mine"
    with pytest.raises(UserError, match="lies in"):
        main([str(videos), str(videos / "out")])
    with pytest.raises(UserError, match="a.mp4 is there without"):
        main([str(videos / "a.mp4"), str(videos)])


def test_a_damaged_source_is_refused_since_its_frames_cannot_be_numbered(main, videos, tmp_path):
    (videos / "day" / "b" / "007.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="007.png"):
        main([str(videos / "day" / "b"), str(tmp_path / "out")])
    assert not (tmp_path / "out" / "b").exists()
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_path_without_videos_is_an_error(main, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        main([str(tmp_path / "absent"), str(tmp_path / "out")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        main([str(tmp_path / "empty"), str(tmp_path / "out")])
