"""Batches of triplets (HVR-Net), and the samplers' shares of processes."""

import itertools
from collections import Counter

import pytest

from vod2.data.clips.samplers import TripletDataset, TripletItem, TripletVideos
from vod2.errors import UserError

# Class 0: videos a, b, c, d; class 1: b (with 0), e; class 2: f alone, of one frame; class 3: g, h
VIDEOS = ["a", "a", "b", "b", "c", "d", "e", "e", "f", "g", "h", "h", "h"]
CLASSES = [{0}, {0}, {0, 1}, {1}, {0}, {0}, {1}, {1}, {2}, {3}, {3}, set(), {3}]


def batches(count, num_classes=3, num_videos=3, seed=0, videos=VIDEOS, classes=CLASSES, **keys):
    sampler = iter(TripletVideos(videos, classes, num_classes, num_videos, seed=seed, **keys))
    size = num_classes * num_videos
    return [list(itertools.islice(sampler, size)) for _ in range(count)]


def test_a_batch_has_distinct_classes_and_as_many_videos_of_each():
    for batch in batches(100):
        assert [item.triplet_place for item in batch] == [(row, column) for row in range(3) for column in range(3)]
        rows = [{item.triplet_class for item in batch[3 * row : 3 * row + 3]} for row in range(3)]
        assert all(len(row) == 1 for row in rows) and len(set.union(*rows)) == 3
        assert all(item.triplet_class in CLASSES[item.position] for item in batch)


def test_videos_of_a_class_are_distinct_where_there_are_that_many_and_repeat_in_turn_where_not():
    seen = Counter()
    for batch in batches(100):
        for row in range(3):
            items = batch[3 * row : 3 * row + 3]
            counts = sorted(Counter(VIDEOS[item.position] for item in items).values())
            seen[items[0].triplet_class, tuple(counts)] += 1
    assert {key for key in seen} == {(0, (1, 1, 1)), (1, (1, 2)), (2, (3,)), (3, (1, 2))}


def test_no_video_stands_for_two_classes_where_others_are_there():
    for batch in batches(100, num_classes=2, num_videos=1, classes=[c & {0, 1} for c in CLASSES]):
        assert len({VIDEOS[item.position] for item in batch}) == 2
    shared = batches(20, num_classes=2, num_videos=2, videos=["a", "a"], classes=[{0}, {0, 1}])
    assert all({item.triplet_class for item in batch} == {0, 1} for batch in shared)


def test_classes_videos_and_frames_are_drawn_alike():
    items = [item for batch in batches(3000, num_classes=1, num_videos=1) for item in batch]
    classes = Counter(item.triplet_class for item in items)
    assert all(650 < classes[category] < 850 for category in range(4))
    videos = Counter(VIDEOS[item.position] for item in items if item.triplet_class == 0)
    assert set(videos) == set("abcd") and min(videos.values()) > 0.2 * classes[0]
    frames = Counter(item.position for item in items if VIDEOS[item.position] == "h")
    assert set(frames) == {10, 12} and min(frames.values()) > 0.4 * sum(frames.values())


def test_the_seed_alone_decides_the_batches():
    assert batches(10) == batches(10) != batches(10, seed=1)


def test_processes_take_whole_batches_in_turn():
    alone = batches(12)
    shares = [batches(4, rank=rank, world_size=3) for rank in range(3)]
    assert [batch for turn in zip(*shares, strict=True) for batch in turn] == alone


def test_too_few_classes_are_named():
    with pytest.raises(UserError, match=r"need 5 classes, the training set has objects of 4.*NUM_CLASSES"):
        batches(1, num_classes=5)
    with pytest.raises(UserError, match="need 3 classes, the training set has objects of 0"):
        batches(1, videos=[], classes=[])
    with pytest.raises(UserError, match="at least one class and one video, got 0 and 3"):
        batches(1, num_classes=0)


def test_clips_are_told_what_they_were_drawn_for():
    dataset = TripletDataset([{"frame_index": 4}, {"frame_index": 5}])
    assert len(dataset) == 2
    assert dataset[TripletItem(1, 7, (0, 2))] == {"frame_index": 5, "triplet_class": 7, "triplet_place": (0, 2)}
