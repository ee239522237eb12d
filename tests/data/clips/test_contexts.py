"""What the test loader yields for TEST.CONTEXT "none" and "foreign". Gray values tell the video and the frame."""

import cv2
import numpy as np
import pytest

from helpers.loaders import forget, loader_config
from vod2.d2 import DatasetCatalog
from vod2.data import build_video_test_loader
from vod2.data.clips.contexts import fit_to_size, foreign_videos, there_and_back
from vod2.errors import UserError

NAME = "context_test"
VIDEOS = {"a": (5, (32, 48)), "b": (3, (64, 64)), "c": (2, (32, 96))}  # length, (height, width)


def gray(video: str, index: int) -> int:
    return 20 + 80 * "abc".index(video) + 10 * index


@pytest.fixture
def make(tmp_path):
    def make_dataset(*videos, every=1):
        records = []
        for video in videos:
            length, size = VIDEOS[video]
            for index in range(length):
                path = str(tmp_path / f"{video}{index}.png")
                cv2.imwrite(path, np.full((*size, 3), gray(video, index), np.uint8))
                record = {"file_name": path, "height": size[0], "width": size[1], "annotations": []}
                record |= {"frame_template": str(tmp_path / f"{video}%d.png"), "frame_offset": 0}
                if index % every == 0:
                    records.append(record | {"video_id": video, "frame_index": index, "video_length": length})
        DatasetCatalog.register(NAME, lambda: records)

    yield make_dataset
    forget(NAME)


def loaded(context: str, workers: int = 0) -> list[dict]:
    cfg = loader_config(NAME, workers)
    cfg.TEST.CONTEXT = context
    return [batch[0] for batch in build_video_test_loader(cfg, NAME)]


def seen(clip: dict) -> list[tuple[int, int]]:
    """(place, gray value) of every support."""
    return [(one["frame_index"], int(one["image"].float().mean())) for one in clip["support"]]


def test_none_yields_every_frame_without_supports(make):
    make("a", "b")
    clips = loaded("none")
    assert [(clip["video_id"], clip["frame_index"]) for clip in clips] == [
        (video, index) for video in "ab" for index in range(VIDEOS[video][0])
    ]
    assert all("image" in clip and clip["support"] == [] for clip in clips)


@pytest.mark.parametrize("workers", [0, 1])
def test_foreign_yields_the_own_key_frame_and_the_partners_frames_in_the_places_of_the_window(make, workers):
    """By hand, with a window of 2 frames on either side: b (3 frames) stands in for a (5) as 0, 1, 2, 1, 0."""
    make("a", "b", "c")
    clips = loaded("foreign", workers)
    of_a = clips[:5]
    assert [int(clip["image"].float().mean()) for clip in of_a] == [gray("a", index) for index in range(5)]
    assert {clip["context_video"] for clip in of_a} == {"b"}
    b = [gray("b", index) for index in (0, 1, 2, 1, 0)]
    assert [seen(clip) for clip in of_a] == [
        [(0, b[0]), (1, b[1]), (2, b[2])],
        [(3, b[3])],
        [(4, b[4])],
        [],
        [],
    ]
    assert [clip["context_video"] for clip in clips[5:]] == ["c"] * 3 + ["a"] * 2
    assert not any("annotations" in clip for clip in clips)


def test_frames_that_are_not_listed_are_foreign_context_too(make):
    """a and b list every second frame: b's frame 1 stands in places 1 and 3."""
    make("a", "b", "c", every=2)
    clips = [clip for clip in loaded("foreign") if clip["video_id"] == "a"]
    b = [gray("b", index) for index in (0, 1, 2, 1, 0)]
    assert [clip["frame_index"] for clip in clips] == [0, 2, 4]
    assert [seen(clip) for clip in clips] == [[(0, b[0]), (1, b[1]), (2, b[2])], [(3, b[3]), (4, b[4])], []]


def test_foreign_frames_have_the_size_of_the_key_frame(make):
    """a is 32 x 48, its partner 64 x 64; the test size is 32."""
    make("a", "b", "c")
    sizes = {(clip["video_id"], tuple(one["image"].shape)) for clip in loaded("foreign") for one in clip["support"]}
    assert sizes == {("a", (3, 32, 48)), ("b", (3, 32, 32)), ("c", (3, 32, 96))}


def test_foreign_needs_two_videos(make):
    make("a")
    with pytest.raises(UserError, match="'foreign' takes frames of another video, but the data set has 1"):
        loaded("foreign")


def test_an_unknown_context_is_named(make):
    make("a")
    with pytest.raises(UserError, match="TEST.CONTEXT is 'other', expected one of own, none, foreign"):
        loaded("other")


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_every_video_has_another_one_and_is_the_partner_of_one(count):
    videos = [str(number) for number in range(count)]
    partners = foreign_videos(videos)
    assert sorted(partners) == sorted(partners.values()) == videos
    assert all(video != other for video, other in partners.items())


def test_a_video_of_one_frame_repeats_it():
    assert [there_and_back(index, 1) for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("size", [(32, 48), (16, 16), (40, 100), (3, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fitted_images_are_the_middle_of_the_image(size, channels):
    """The image is black at its left and right ends and as bright in the middle: what is cut off is symmetric."""
    ramp = np.minimum(np.arange(60), np.arange(60)[::-1]) * 8
    image = np.broadcast_to(ramp[None, :, None], (32, 60, channels)).astype(np.uint8)
    out = fit_to_size(image, size)
    assert out.shape == (*size, channels) and out.dtype == np.uint8
    np.testing.assert_allclose(out.astype(int), out[:, ::-1].astype(int), atol=40)
    assert abs(int(out[:, size[1] // 2].mean()) - 8 * 29) < 70


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    assert fit_to_size(image, (8, 12)) is image
