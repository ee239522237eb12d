"""Loaders of clips, from registered datasets to batches."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from vod2.config import add_video_config
from vod2.d2 import BoxMode, DatasetCatalog, DatasetMapper, MetadataCatalog, comm, get_cfg
from vod2.data import VideoInferenceSampler, as_video_dicts, build_video_test_loader, build_video_train_loader
from vod2.data.clips import build as build_module
from vod2.data.clips.build import in_stream_order
from vod2.data.clips.samplers import NumberedSampler
from vod2.data.clips.train_loader import GroupedByAspect
from vod2.errors import UserError


@pytest.fixture
def make(tmp_path):
    """Registers datasets of small frames: make(name, {video: frames or list of frame numbers}, still=False)."""
    registered = []

    def make_dataset(name, videos, still=False, empty=(), size=(32, 48)):
        dicts = []
        for video, frames in videos.items():
            frames = range(frames) if isinstance(frames, int) else frames
            for index in frames:
                file = tmp_path / f"{video}_{index:03d}.png"
                Image.fromarray(np.full((*size, 3), 10 * index, np.uint8)).save(file)
                annotation = {
                    "bbox": [4.0, 4.0, 20.0, 20.0],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": index % 2,
                    "iscrowd": 0,
                }
                record = {
                    "file_name": str(file),
                    "image_id": f"{video}/{index}",
                    "height": size[0],
                    "width": size[1],
                    "annotations": [] if index in empty else [annotation],
                }
                if not still:
                    record |= {"video_id": video, "frame_index": index}
                dicts.append(record)
        DatasetCatalog.register(name, lambda: dicts)
        MetadataCatalog.get(name).set(thing_classes=["even", "odd"])
        registered.append(name)
        return dicts

    yield make_dataset
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*train, **keys):
    cfg = add_video_config(get_cfg())
    cfg.DATASETS.TRAIN = train
    cfg.SEED = 5
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 40)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.VIDEO.TRAIN_SCHEDULE.NAME = "RandomNear"
    cfg.VIDEO.TEST_SCHEDULE.NAME = "SlidingWindow"
    cfg.VIDEO.TEST_SCHEDULE.RADIUS = 2
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return cfg


def batches(cfg, count):
    loader = build_video_train_loader(cfg)
    return list(itertools.islice(iter(loader), count))


def drawn_for(batch):
    return [(clip["triplet_class"], clip["triplet_place"]) for clip in batch]


def describe(batch):
    return [
        (clip["image_id"], tuple(s["frame_index"] for s in clip["support"]), clip["image"].sum().item())
        for clip in batch
    ]


def test_key_frames_are_those_with_objects_and_supports_any(make):
    make("loader_a", {"v": 6}, empty=(0, 1, 2, 4, 5))
    clips = sum(batches(config("loader_a"), 10), [])
    assert {clip["frame_index"] for clip in clips} == {3}
    assert {s["frame_index"] for clip in clips for s in clip["support"]} == set(range(6))


def test_an_epoch_goes_through_all_datasets_once(make):
    make("loader_a", {"v": 4, "w": 3})
    make("loader_b", {"x": 3}, still=True)
    clips = sum(batches(config("loader_a", "loader_b"), 5), [])
    assert len({clip["image_id"] for clip in clips}) == 10
    assert all(len(clip["support"]) == 2 and "instances" in clip["support"][0] for clip in clips)


def test_frames_without_objects_may_be_kept_as_key_frames(make):
    make("loader_a", {"v": 4}, empty=(0, 1))
    clips = sum(batches(config("loader_a", DATALOADER__FILTER_EMPTY_ANNOTATIONS=False), 2), [])
    assert {clip["frame_index"] for clip in clips} == {0, 1, 2, 3}


def test_nothing_to_train_on_is_a_clear_error(make):
    make("loader_a", {"v": 2}, empty=(0, 1))
    with pytest.raises(UserError, match="loader_a has objects"):
        build_video_train_loader(config("loader_a"))
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty"):
        build_video_train_loader(config())


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("augmentation", ["", "SSD"])
def test_one_seed_gives_the_same_samples_with_and_without_workers(make, augmentation, grouping):
    make("loader_a", {"v": 9})
    cfg = config("loader_a", DATALOADER__ASPECT_RATIO_GROUPING=grouping, INPUT__VIDEO_AUGMENTATION=augmentation)
    alone = [describe(batch) for batch in batches(cfg, 8)]
    assert alone == [describe(batch) for batch in batches(cfg, 8)]
    for workers in (2, 4):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert [describe(batch) for batch in batches(cfg, 8)] == alone


def test_wide_and_tall_clips_do_not_meet_in_a_batch():
    sizes = [(4, 3), (3, 4), (3, 3), (5, 2), (3, 5), (9, 1)]
    clips = [{"width": width, "height": height} for width, height in sizes]
    grouped = GroupedByAspect([[clip] for clip in clips], 2)
    assert list(grouped) == [[clips[1], clips[2]], [clips[0], clips[3]]]


def test_a_batch_size_that_does_not_fit_the_processes_is_named(make):
    make("loader_a", {"v": 2})
    with pytest.raises(UserError, match="IMS_PER_BATCH is 0, expected a multiple of the 1 processes"):
        build_video_train_loader(config("loader_a", SOLVER__IMS_PER_BATCH=0))


def test_another_seed_gives_other_clips(make):
    make("loader_a", {"v": 9})
    first, second = (describe(sum(batches(config("loader_a", SEED=seed), 4), [])) for seed in (5, 6))
    assert first != second


def test_a_frame_is_drawn_anew_each_time_it_comes(make):
    make("loader_a", {"v": 9}, empty=tuple(range(1, 9)))
    clips = describe(sum(batches(config("loader_a"), 10), []))
    assert len(set(clips)) > 5


def test_loading_leaves_the_global_generators_alone(make):
    make("loader_a", {"v": 9})
    np.random.seed(3)
    torch.manual_seed(3)
    numpy_expected, torch_expected = np.random.rand(), torch.rand(()).item()
    loader = iter(build_video_train_loader(config("loader_a", DATALOADER__ASPECT_RATIO_GROUPING=False)))
    next(loader)
    np.random.seed(3)
    torch.manual_seed(3)
    next(loader)
    assert (np.random.rand(), torch.rand(()).item()) == (numpy_expected, torch_expected)


def test_a_mapper_of_ones_own_is_used(make):
    make("loader_a", {"v": 4})
    cfg = config("loader_a")
    own = build_video_train_loader(cfg, mapper=lambda d: {**d, "mine": True})
    assert all(clip["mine"] for clip in next(iter(own)))
    clips = [batch[0] for batch in build_video_test_loader(cfg, "loader_a", mapper=DatasetMapper(cfg, False))]
    assert [clip["frame_index"] for clip in clips] == [0, 1, 2, 3]
    assert all("image" in clip and "support" not in clip for clip in clips)


def test_still_images_are_limited_per_class_and_videos_are_not(make):
    make("loader_a", {"v": 4})
    make("loader_b", {"x": 8}, still=True)
    clips = sum(batches(config("loader_a", "loader_b", DATASETS__MAX_IMAGES_PER_CLASS=1), 6), [])
    stills = {clip["image_id"] for clip in clips if clip["video_id"] != "v"}
    assert len(stills) == 2 and len({clip["image_id"] for clip in clips}) == 6


def test_rare_classes_can_be_repeated(make):
    make("loader_a", {"v": [0, 2, 4, 6, 8, 10, 12, 13]})
    cfg = config("loader_a", DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler", DATALOADER__REPEAT_THRESHOLD=1.0)
    frames = [clip["frame_index"] for clip in sum(batches(cfg, 20), [])]
    assert frames.count(13) > 2 * frames.count(0)


def test_datasets_come_in_the_proportions_that_are_asked_for(make):
    make("loader_a", {"v": 12})
    make("loader_b", {"x": 3}, still=True)
    cfg = config("loader_a", "loader_b", DATASETS__TRAIN_PROPORTIONS=(1.0, 3.0))
    clips = sum(batches(cfg, 150), [])
    assert 0.7 < sum(clip["dataset_name"] == "loader_b" for clip in clips) / len(clips) < 0.8
    assert {clip["frame_index"] for clip in clips if clip["dataset_name"] == "loader_a"} == set(range(12))
    cfg.DATALOADER.NUM_WORKERS = 2
    assert [describe([clip]) for clip in sum(batches(cfg, 20), [])] == [describe([clip]) for clip in clips[:40]]


def test_proportions_go_with_the_repetition_of_rare_classes(make):
    make("loader_a", {"v": [0, 2, 4, 6, 8, 10, 12, 13]})
    make("loader_b", {"x": 4}, still=True)
    cfg = config("loader_a", "loader_b", DATASETS__TRAIN_PROPORTIONS=(2, 2), INPUT__MIN_SIZE_TRAIN=(16,))
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 1.0
    clips = sum(batches(cfg, 150), [])
    assert 0.45 < sum(clip["dataset_name"] == "loader_a" for clip in clips) / len(clips) < 0.55
    frames = [clip["frame_index"] for clip in clips if clip["dataset_name"] == "loader_a"]
    # Odd are 3 of 12 frames, even 9: factors 2 and 2 / sqrt(3)
    assert 1.3 < frames.count(13) / (len([i for i in frames if i != 13]) / 7) < 2.3


@pytest.mark.parametrize("proportions", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_proportions_that_do_not_fit_the_datasets_are_named(make, proportions):
    make("loader_a", {"v": 2})
    make("loader_b", {"x": 2}, still=True)
    with pytest.raises(UserError, match=r"TRAIN_PROPORTIONS is \(1\.0,.*each of the 2 datasets loader_a, loader_b"):
        build_video_train_loader(config("loader_a", "loader_b", DATASETS__TRAIN_PROPORTIONS=proportions))


def test_a_share_of_a_dataset_without_objects_is_refused(make):
    make("loader_a", {"v": 2})
    make("loader_b", {"x": 2}, still=True, empty=(0, 1))
    with pytest.raises(UserError, match="gives loader_b a share, but none of its frames has objects"):
        build_video_train_loader(config("loader_a", "loader_b", DATASETS__TRAIN_PROPORTIONS=(1.0, 1.0)))


def test_datasets_of_different_classes_are_not_mixed(make):
    make("loader_a", {"v": 2})
    make("loader_b", {"x": 2})
    MetadataCatalog.remove("loader_b")
    MetadataCatalog.get("loader_b").set(thing_classes=["odd", "even"])
    with pytest.raises(UserError, match="loader_a and loader_b have different thing_classes"):
        build_video_train_loader(config("loader_a", "loader_b"))


def triplet_config(*train, **keys):
    cfg = config(*train, DATALOADER__SAMPLER_TRAIN="TripletVideos", DATALOADER__TRIPLET__NUM_CLASSES=2)
    cfg.SOLVER.IMS_PER_BATCH = 6
    cfg.VIDEO.TRAIN_SCHEDULE.NAME, cfg.VIDEO.TRAIN_SCHEDULE.INCLUDE_KEY = "RandomVideo", False
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return cfg


@pytest.mark.parametrize("augmentation", ["", "SSD"])
def test_batches_of_triplets_are_the_same_for_any_number_of_workers(make, augmentation):
    make("loader_a", {"v": 4, "w": 4, "y": [1, 3]})
    make("loader_b", {"x": 2}, still=True, size=(48, 32))
    cfg = triplet_config("loader_a", "loader_b", INPUT__VIDEO_AUGMENTATION=augmentation)
    alone = batches(cfg, 6)
    for batch in alone:
        places = [clip["triplet_place"] for clip in batch]
        assert places == [(row, column) for row in range(2) for column in range(3)]
        for clip in batch:
            assert clip["triplet_class"] == clip["frame_index"] % 2 if clip["video_length"] > 1 else True
            assert len(clip["support"]) == 2
            assert all(
                (s["frame_index"] == clip["frame_index"]) == (clip["video_length"] == 1) for s in clip["support"]
            )
        videos = [clip["video_id"] for clip in batch]
        assert len(set(videos[:3])) == len(set(videos[3:])) == 3
    assert any(clip["video_length"] == 1 for batch in alone for clip in batch)
    for workers in (2, 4):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert [describe(batch) for batch in batches(cfg, 6)] == [describe(batch) for batch in alone]


def test_a_batch_of_triplets_has_the_size_of_the_triplets(make):
    make("loader_a", {"v": 4})
    with pytest.raises(UserError, match=r"IMS_PER_BATCH is 8.*2 classes x 3 videos for each of 1 processes.*to 6"):
        build_video_train_loader(triplet_config("loader_a", SOLVER__IMS_PER_BATCH=8))


def test_each_process_has_whole_batches_of_triplets(make, monkeypatch):
    make("loader_a", {"v": 4, "w": 4})
    expected = [drawn_for(batch) for batch in batches(triplet_config("loader_a"), 4)]
    cfg = triplet_config("loader_a", SOLVER__IMS_PER_BATCH=12)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(build_module, "build_detection_train_loader", lambda **keys: keys["sampler"])
        sampler = build_video_train_loader(cfg)._sampler
        items = [item for _, item in itertools.islice(sampler, 12)]
        shares.append([[(item.triplet_class, item.triplet_place) for item in items[i : i + 6]] for i in (0, 6)])
    assert [shares[0][0], shares[1][0], shares[0][1], shares[1][1]] == expected


def test_proportions_do_not_go_with_triplets(make):
    make("loader_a", {"v": 4})
    with pytest.raises(UserError, match="TRAIN_PROPORTIONS has no effect on TripletVideos"):
        build_video_train_loader(triplet_config("loader_a", DATASETS__TRAIN_PROPORTIONS=(1.0,)))


def test_an_unknown_sampler_is_named(make):
    make("loader_a", {"v": 4})
    with pytest.raises(UserError, match="SAMPLER_TRAIN is 'Best'"):
        build_video_train_loader(config("loader_a", DATALOADER__SAMPLER_TRAIN="Best"))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_whole_videos_in_order_and_each_frame_once(make, workers):
    make("loader_a", {"v": 4, "w": 3})
    cfg = config(DATALOADER__NUM_WORKERS=workers)
    clips = [batch[0] for batch in build_video_test_loader(cfg, "loader_a")]
    assert [(clip["video_id"], clip["frame_index"], clip["previous_index"]) for clip in clips] == [
        ("v", 0, None),
        ("v", 1, 0),
        ("v", 2, 1),
        ("v", 3, 2),
        ("w", 0, None),
        ("w", 1, 0),
        ("w", 2, 1),
    ]
    sent = [[clip["frame_index"]] * ("image" in clip) + [s["frame_index"] for s in clip["support"]] for clip in clips]
    assert sent == [[0, 1, 2], [3], [], [], [0, 1, 2], [], []]


def test_plain_images_evaluate_as_videos_of_one_frame(make):
    make("loader_a", {"x": 3}, still=True)
    clips = [batch[0] for batch in build_video_test_loader(config(), "loader_a")]
    assert all("image" in clip and clip["support"] == [] and clip["video_length"] == 1 for clip in clips)
    assert len({clip["video_id"] for clip in clips}) == 3


def test_gaps_in_a_video_are_bridged_by_the_nearest_frame(make):
    make("loader_a", {"v": [0, 1, 5, 6]})
    clips = [batch[0] for batch in build_video_test_loader(config(), "loader_a")]
    assert [(clip["frame_index"], clip["previous_index"]) for clip in clips] == [(0, None), (1, 0), (5, 1), (6, 5)]
    assert {s["frame_index"]: int(s["image"].max()) for s in clips[1]["support"]} == {3: 10}
    assert {s["frame_index"]: int(s["image"].max()) for s in clips[2]["support"]} == {4: 50, 6: 60}


def test_video_keys_that_are_there_stay_and_lengths_are_filled_in():
    size = {"height": 1, "width": 1}
    dicts = as_video_dicts(
        [
            {"file_name": "a", "video_id": "v", "frame_index": 4, **size},
            {"file_name": "b", "video_id": "v", "frame_index": 2, **size},
            {"file_name": "c", "video_id": "w", "frame_index": 0, "video_length": 9, **size},
            {"file_name": "d", **size},
        ]
    )
    assert [(d["video_id"], d["frame_index"], d["video_length"]) for d in dicts] == [
        ("v", 4, 5),
        ("v", 2, 5),
        ("w", 0, 9),
        ("d", 0, 1),
    ]
    assert as_video_dicts([]) == []


def test_a_dict_that_cannot_be_completed_is_named():
    with pytest.raises(UserError, match=r"a\.jpg.*no frame_index and no width"):
        as_video_dicts([{"file_name": "a.jpg", "video_id": "v", "height": 3}])


def test_scattered_frames_are_put_in_stream_order():
    dicts = [{"video_id": v, "frame_index": i} for v, i in [("b", 3), ("a", 0), ("b", 1), ("a", 2)]]
    assert [(d["video_id"], d["frame_index"], d["previous_index"]) for d in in_stream_order(dicts)] == [
        ("b", 1, None),
        ("b", 3, 1),
        ("a", 0, None),
        ("a", 2, 0),
    ]


def test_processes_share_whole_videos_evenly():
    videos = sum(([name] * length for name, length in [("a", 5), ("b", 9), ("c", 4), ("d", 1), ("e", 3)]), [])
    shares = [list(VideoInferenceSampler(videos, rank, 2)) for rank in range(2)]
    # b to 0; a, c to 1 (both 9 now); e to 0; d to 1
    assert [sorted({videos[i] for i in share}) for share in shares] == [["b", "e"], ["a", "c", "d"]]
    assert sorted(sum(shares, [])) == list(range(22))
    assert all(
        share == sorted(share) and len(VideoInferenceSampler(videos, r, 2)) == len(share)
        for r, share in enumerate(shares)
    )


def test_a_process_may_get_no_video_and_a_dataset_may_be_empty():
    assert list(VideoInferenceSampler(["a", "a"], 1, 2)) == []
    assert list(VideoInferenceSampler([], 0, 1)) == []
    with pytest.raises(ValueError, match="rank"):
        VideoInferenceSampler(["a"], 2, 2)


def test_numbers_of_samples_differ_between_processes():
    pairs = [list(NumberedSampler(sampler, rank, 2)) for rank, sampler in enumerate([[4, 5], [6, 7]])]
    assert pairs == [[(0, 4), (2, 5)], [(1, 6), (3, 7)]]


def test_a_dataset_that_nobody_has_registered_is_named_with_the_way_to_do_it(make):
    for build in (build_video_train_loader, lambda cfg: build_video_test_loader(cfg, "nobodys")):
        with pytest.raises(UserError, match="dataset 'nobodys' is not registered: .* --register FILE.py"):
            build(config("nobodys"))
