"""From dicts to pixels, of images and of video files."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from helpers.loaders import assert_loaders_show_the_right_frames, forget, loader_config
from helpers.videos import SIZE, number_of, write_numbered_images, write_numbered_video, write_video
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog
from vod2.data import VideoIndex, build_video_test_loader
from vod2.data.clips import frames as clip_frames
from vod2.data.clips.frames import ClipReader, read_frames
from vod2.errors import UserError, VideoError
from vod2.video import VideoReader, seeking

LENGTH = 14


def video_dict(path, index=0, **keys):
    annotation = {"bbox": [4.0, 4.0, 20.0, 20.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
    record = {"video_file": str(path), "image_id": f"v/{index}", "video_id": "v", "frame_index": index}
    record |= {"video_length": LENGTH, "height": SIZE[0], "width": SIZE[1], "annotations": [annotation]}
    return record | keys


@pytest.fixture
def video(tmp_path):
    return write_numbered_video(tmp_path / "ein film.mp4", LENGTH, gop=5)


def test_frames_of_a_video_file_come_by_their_number(video):
    frames = read_frames(video_dict(video, 7), [12, 0, 7, 12])
    assert {index: number_of(image) for index, image in frames.items()} == {0: 0, 7: 7, 12: 12}
    assert all(image.shape == (*SIZE, 3) and image.dtype == np.uint8 for image in frames.values())
    assert read_frames(video_dict(video), []) == {}


def test_frames_of_a_folder_come_by_template_or_from_the_nearest_dict(tmp_path):
    write_numbered_images(tmp_path, [f"{index:06d}.png" for index in range(5)])
    plain = [
        {"file_name": f"{tmp_path}/{index:06d}.png", "video_id": "v", "frame_index": index, "height": 32, "width": 48}
        for index in (0, 3)
    ]
    frames = read_frames(plain[0], range(5), VideoIndex(plain))
    assert [number_of(frames[index]) for index in range(5)] == [0, 0, 3, 3, 3]
    record = plain[0] | {"frame_template": f"{tmp_path}/%06d.png", "frame_offset": 0}
    assert [number_of(image) for image in read_frames(record, range(5)).values()] == list(range(5))
    with pytest.raises(ValueError, match="VideoIndex"):
        read_frames(plain[0], [1])


def test_channels_come_in_the_format_that_is_asked_for(tmp_path):
    blue = np.zeros((*SIZE, 3), np.uint8)
    blue[..., 0] = 255
    record = video_dict(write_video(tmp_path / "v.mp4", [blue] * 3))
    bgr, rgb, gray = (read_frames(record, [1], format=name)[1] for name in ("BGR", "RGB", "L"))
    assert bgr[..., 0].min() > 200 and np.array_equal(rgb[..., ::-1], bgr)
    assert gray.shape == (*SIZE, 1) and gray.max() < 60
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'YUV'"):
        read_frames(record, [1], format="YUV")


def test_each_frame_is_decoded_once_for_a_clip_in_any_order(video, decoded):
    read = ClipReader(video_dict(video, 3), [3, 4, 1, 4])
    assert [number_of(read(video_dict(video, 3), index)) for index in (3, 4, 1, 4)] == [3, 4, 1, 4]
    assert decoded == [0, 1, 2, 3, 4]


def test_a_stream_of_steps_decodes_each_frame_once(video, decoded):
    for index in range(LENGTH):
        read_frames(video_dict(video, index), [index])
    assert decoded == list(range(LENGTH))


def test_a_clip_reader_reads_other_videos_and_frames_too(video, tmp_path):
    other = video_dict(write_numbered_video(tmp_path / "w.mp4", 3), video_id="w")
    read = ClipReader(video_dict(video), [0, 1])
    assert [number_of(read(other, 2)), number_of(read(video_dict(video), 9))] == [2, 9]


def test_a_bad_frame_of_a_clip_is_an_error_only_where_it_is_read(video):
    read = ClipReader(video_dict(video), [0, 99, 1])
    assert number_of(read(video_dict(video), 1)) == 1
    with pytest.raises(VideoError, match="no frame 99 .*ein film.mp4"):
        read(video_dict(video), 99)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list open files")
@pytest.mark.parametrize(("frames", "files", "most"), [(0.5, 9, 1), (2, 9, 2), (3.9, 9, 3), (100, 9, 5), (100, 4, 4)])
def test_files_stay_open_as_far_as_a_frame_of_each_has_room(tmp_path, monkeypatch, frames, files, most):
    paths = [write_numbered_video(tmp_path / f"{index}.mp4", 3) for index in range(5)]
    width, height = VideoReader(paths[0]).size
    monkeypatch.setattr(clip_frames, "_open_readers", clip_frames._OpenReaders(int(frames * width * height), files))

    def is_open(path: Path) -> bool:
        found = []
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the one that lists them is gone
                found.append(os.readlink(f"/proc/self/fd/{entry}"))
        return str(path) in found

    for path in [*paths, paths[-1]]:
        assert number_of(read_frames(video_dict(path), [1])[1]) == 1
    assert [is_open(path) for path in paths] == [False] * (5 - most) + [True] * most


def test_a_file_in_which_a_frame_is_sought_is_opened_once(tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "v.mp4", 20, gop=5)
    opened = []
    monkeypatch.setattr(
        seeking, "open_video", lambda *args, real=seeking.open_video: opened.append(args) or real(*args)
    )
    for number in (19, 8, 18, 7, 12):
        assert number_of(read_frames(video_dict(path), [number])[number]) == number
    assert len(opened) == 2  # for the times of its frames, and for its frames


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 3)
    assert number_of(read_frames(video_dict(path), [2])[2]) == 2
    os.replace(write_numbered_video(tmp_path / "new.mp4", 6, b_frames=0), path)
    os.utime(path, ns=(1, 1))
    assert number_of(read_frames(video_dict(path), [5])[5]) == 5


def test_what_is_wrong_with_a_video_file_is_named_with_the_frame(video, tmp_path):
    with pytest.raises(VideoError, match=f"no frame {LENGTH} in .*ein film.mp4.* {LENGTH} frames"):
        read_frames(video_dict(video), [LENGTH])
    with pytest.raises(VideoError, match="no video .*absent.mp4.*No such file"):
        read_frames(video_dict(tmp_path / "absent.mp4"), [0])
    with pytest.raises(VideoError, match="ein film.mp4, frame 2: the image has 48 x 32 .* says 48 x 99"):
        read_frames(video_dict(video, height=99), [2])


@pytest.mark.parametrize("content", [None, b"", b"broken"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "a b.jpg"
    if content is not None:
        path.write_bytes(content)
    record = {"file_name": str(path), "video_id": "v", "frame_index": 0, "height": 32, "width": 48}
    with pytest.raises(UserError, match=r"a b\.jpg: (no such image|the image cannot be read)"):
        read_frames(record, [0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_file_is_loaded_for_training_and_evaluation(video, workers):
    name = f"video_file_for_a_test_{workers}"
    # This process has the file open when the workers are forked.
    read_frames(video_dict(video), [3])
    DatasetCatalog.register(name, lambda: [video_dict(video, index) for index in range(LENGTH)])
    MetadataCatalog.get(name).set(thing_classes=["gray"])
    try:
        assert_loaders_show_the_right_frames(name, {"v": LENGTH}, workers)
    finally:
        forget(name)


def test_supports_may_be_frames_that_have_no_dict(video):
    name = "video_file_with_few_annotations"
    DatasetCatalog.register(name, lambda: [video_dict(video, index) for index in (0, 6)])
    MetadataCatalog.get(name).set(thing_classes=["gray"])
    try:
        stream = [batch[0] for batch in build_video_test_loader(loader_config(name), name)]
    finally:
        forget(name)
    assert {s["frame_index"]: number_of(s["image"]) for s in stream[1]["support"]} == {4: 4, 5: 5, 7: 7, 8: 8}
