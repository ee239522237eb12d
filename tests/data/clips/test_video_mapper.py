"""From the dict of a frame to a clip. Every pixel of frame i has the value 10 i, with a bright left edge."""

import numpy as np
import pytest
import torch
from PIL import Image

from vod2.config import add_video_config
from vod2.d2 import BoxMode, Instances, get_cfg, transforms
from vod2.data import VideoDatasetMapper, VideoIndex
from vod2.data.clips import frames
from vod2.data.clips.augmentation import CentreCropTransform
from vod2.errors import UserError
from vod2.structures import Role, Support
from vod2.temporal import NoSupport, NoWindow, SlidingWindow, TrainingSchedule, WithKey

FRAMES = 6


class These(TrainingSchedule):
    """Always the frames it was given."""

    def __init__(self, *indices):
        self.indices = indices

    @classmethod
    def from_config(cls, node):
        return cls()

    def sample(self, t, length, rng):
        return [Support(index, Role.LOCAL) for index in self.indices]


class Anywhere(These):
    """Two frames, drawn."""

    def sample(self, t, length, rng):
        return [Support(int(index), Role.LOCAL) for index in rng.integers(length, size=2)]


@pytest.fixture
def dicts(tmp_path):
    records = []
    for index in range(FRAMES):
        pixels = np.full((32, 48, 3), 10 * index, np.uint8)
        pixels[:, :8] = 250
        file = tmp_path / f"{index:06d}.png"
        Image.fromarray(pixels).save(file)
        annotation = {
            "bbox": [0.0, 4.0, 8.0 + index, 20.0],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 3,
            "iscrowd": 0,
            "track_id": 7,
        }
        records.append(
            {
                "file_name": str(file),
                "image_id": f"v/{index}",
                "height": 32,
                "width": 48,
                "video_id": "v",
                "frame_index": index,
                "video_length": FRAMES,
                "frame_template": f"{tmp_path}/%06d.png",
                "frame_offset": 0,
                "annotations": [annotation],
            }
        )
    return records


def training_mapper(schedule, *augmentations, index=None):
    return VideoDatasetMapper(
        is_train=True, augmentations=list(augmentations), image_format="BGR", schedule=schedule, index=index
    )


def streaming_mapper(schedule, *augmentations, index=None):
    return VideoDatasetMapper(
        is_train=False, augmentations=list(augmentations), image_format="BGR", schedule=schedule, index=index
    )


def value(image):
    """Which frame an image shows."""
    return round(float(image[0].float().median()) / 10)


def test_the_clip_is_the_key_frame_with_the_frames_that_the_schedule_drew(dicts):
    clip = training_mapper(These(4, 0))(dicts[2])
    assert clip["image"].shape == (3, 32, 48) and clip["image"].dtype == torch.uint8
    assert value(clip["image"]) == 2
    assert [(s["frame_index"], value(s["image"]), s["role"]) for s in clip["support"]] == [
        (4, 4, Role.LOCAL),
        (0, 0, Role.LOCAL),
    ]
    assert (clip["video_id"], clip["frame_index"], clip["video_length"]) == ("v", 2, FRAMES)
    assert "annotations" not in clip


def test_the_dataset_dict_is_left_as_it_is(dicts):
    before = dicts[2]["annotations"][0]["bbox"][:]
    training_mapper(These(1), transforms.HFlipTransform(48))(dicts[2])
    assert set(dicts[2]) == set(dicts[0]) and dicts[2]["annotations"][0]["bbox"] == before


def test_ground_truth_has_boxes_classes_and_tracks(dicts):
    dicts[2]["annotations"][0].pop("track_id")
    instances = training_mapper(NoSupport())(dicts[2])["instances"]
    assert isinstance(instances, Instances) and instances.image_size == (32, 48)
    assert instances.gt_boxes.tensor.tolist() == [[0, 4, 10, 20]]
    assert instances.gt_classes.tolist() == [3]
    assert instances.gt_track_ids.tolist() == [-1]


def test_supports_have_ground_truth_where_the_dataset_knows_it(dicts):
    mapper = training_mapper(These(4, 5, 2), index=VideoIndex(dicts[:5]))
    known, unknown, key = mapper(dicts[2])["support"]
    assert known["instances"].gt_boxes.tensor.tolist() == [[0, 4, 12, 20]]
    assert key["instances"].gt_boxes.tensor.tolist() == [[0, 4, 10, 20]]
    assert "instances" not in unknown


def test_the_key_frame_as_its_own_support_is_named_but_not_given_again(dicts):
    key, other = training_mapper(WithKey(These(4)), index=VideoIndex(dicts))(dicts[2])["support"]
    assert key == {"frame_index": 2, "role": Role.KEY}
    assert (other["frame_index"], value(other["image"]), other["role"]) == (4, 4, Role.LOCAL)


def test_the_key_frame_as_its_own_support_is_the_one_that_stands_in_for_a_bad_file(dicts):
    open(dicts[2]["file_name"], "w").close()
    mapper = VideoDatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        schedule=WithKey(These(4)),
        index=VideoIndex(dicts),
        on_bad_frame="skip",
        max_bad_frames=1,
    )
    clip = mapper(dicts[2])
    assert clip["frame_index"] != 2 and clip["support"][0] == {"frame_index": clip["frame_index"], "role": Role.KEY}


def test_crowds_and_empty_boxes_are_left_out(dicts):
    annotation = dicts[0]["annotations"][0]
    dicts[0]["annotations"] = [{**annotation, "iscrowd": 1}, {**annotation, "bbox": [3.0, 3.0, 3.0, 9.0]}]
    instances = training_mapper(NoSupport())(dicts[0])["instances"]
    assert len(instances) == 0 and instances.gt_track_ids.shape == (0,)


def test_a_frame_without_objects_gives_empty_instances(dicts):
    dicts[0]["annotations"] = []
    instances = training_mapper(These(0), transforms.RandomFlip())(dicts[0])["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_track_ids.shape == (0,)


def test_the_augmentation_is_drawn_once_for_all_frames_and_boxes(dicts):
    mapper = training_mapper(
        These(0, 1, 3, 4), transforms.ResizeShortestEdge((32, 64), 1000, "choice"), transforms.RandomFlip()
    )
    mapper.index = VideoIndex(dicts)
    seen = set()
    np.random.seed(0)
    for _ in range(20):
        clip = mapper(dicts[2])
        images = [clip["image"], *(s["image"] for s in clip["support"])]
        assert len({image.shape for image in images}) == 1
        scale = images[0].shape[1] / 32
        flipped = [bool(image[0, 0, -1] > 200) for image in images]
        assert len(set(flipped)) == 1
        for index, target in [(2, clip["instances"]), *((s["frame_index"], s["instances"]) for s in clip["support"])]:
            x1, x2 = 0, 8 + index
            expected = [48 - x2, 4, 48 - x1, 20] if flipped[0] else [x1, 4, x2, 20]
            assert target.gt_boxes.tensor.tolist() == [[scale * x for x in expected]]
        seen.add((scale, flipped[0]))
    assert seen == {(1, False), (1, True), (2, False), (2, True)}


def test_a_still_image_is_a_clip_of_itself_and_read_once(dicts, monkeypatch):
    mapper = training_mapper(These(0, 0))
    reads = []
    real = frames.read_frames
    monkeypatch.setattr(frames, "read_frames", lambda clip, *args: reads.extend(args[0]) or real(clip, *args))
    still = {key: dicts[1][key] for key in ("file_name", "image_id", "height", "width", "annotations")}
    clip = mapper({**still, "video_id": "still", "frame_index": 0, "video_length": 1})
    assert reads == [0]
    assert [s["frame_index"] for s in clip["support"]] == [0, 0]
    assert all(torch.equal(s["image"], clip["image"]) for s in clip["support"])


def test_a_seeded_generator_gives_the_same_clip_again(dicts):
    mapper = training_mapper(Anywhere(), transforms.RandomFlip())

    def draw(seed):
        np.random.seed(seed)
        clips = [mapper(dicts[2]) for _ in range(6)]
        return [[s["frame_index"] for s in clip["support"]] for clip in clips], [clip["image"] for clip in clips]

    (frames, images), (again, same), (others, _) = draw(1), draw(1), draw(2)
    assert frames == again != others
    assert all(map(torch.equal, images, same))
    assert len({tuple(pair) for pair in frames}) > 1


def test_at_test_each_frame_of_the_window_is_sent_once(dicts):
    mapper = streaming_mapper(SlidingWindow(1))
    clips = [mapper({**d, "previous_index": i - 1 if i else None}) for i, d in enumerate(dicts)]
    sent = [([s["frame_index"] for s in clip["support"]], "image" in clip) for clip in clips]
    assert sent == [([1], True), ([2], False), ([3], False), ([4], False), ([5], False), ([], False)]
    assert [value(s["image"]) for clip in clips for s in clip["support"]] == [1, 2, 3, 4, 5]
    assert all(s["role"] is None for clip in clips for s in clip["support"])
    assert all((clip["height"], clip["width"]) == (32, 48) and "annotations" not in clip for clip in clips)


def test_at_test_skipped_frames_are_made_up_for(dicts):
    clip = streaming_mapper(SlidingWindow(1))({**dicts[4], "previous_index": 0})
    assert "image" in clip
    assert [s["frame_index"] for s in clip["support"]] == [3, 5]


def test_at_test_a_single_frame_model_gets_its_image(dicts):
    clip = streaming_mapper(NoWindow(), transforms.ResizeShortestEdge(64, 1000, "choice"))(
        {**dicts[4], "previous_index": 3}
    )
    assert clip["image"].shape == (3, 64, 96) and value(clip["image"]) == 4 and clip["support"] == []
    assert (clip["height"], clip["width"]) == (32, 48)


def test_without_a_template_other_frames_are_found_by_their_dicts(dicts):
    plain = [{k: v for k, v in d.items() if not k.startswith("frame_t")} for d in dicts if d["frame_index"] != 3]
    clip = training_mapper(These(4, 3), index=VideoIndex(plain))(plain[0])
    # Frame 3 has no file; 2 is as near as 4 and comes first.
    assert [(s["frame_index"], value(s["image"])) for s in clip["support"]] == [(4, 4), (3, 2)]
    # Ground truth is that of the image which is seen.
    boxes = [one["instances"].gt_boxes.tensor.tolist() for one in clip["support"]]
    assert boxes == [[[0, 4, 12, 20]], [[0, 4, 10, 20]]]


def test_without_a_template_or_an_index_the_error_says_what_is_needed(dicts):
    del dicts[0]["frame_template"]
    with pytest.raises(ValueError, match="VideoIndex"):
        training_mapper(These(4))(dicts[0])


def test_an_unknown_video_is_named(dicts):
    with pytest.raises(KeyError, match="'w'"):
        VideoIndex(dicts).path("w", 0)


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
def test_a_broken_image_is_named(dicts, tmp_path, content):
    file = tmp_path / "000004.png"
    file.write_bytes(file.read_bytes()[:60] if content == "half" else content)
    with pytest.raises(UserError, match=r"000004\.png"):
        training_mapper(These(4))(dicts[0])


def test_a_missing_image_is_named(dicts, tmp_path):
    (tmp_path / "000004.png").unlink()
    with pytest.raises(UserError, match=r"000004\.png: no such image"):
        streaming_mapper(SlidingWindow(1))({**dicts[3], "previous_index": 2})


def test_an_image_of_another_size_than_annotated_is_named_with_both_sizes(dicts):
    with pytest.raises(UserError, match=r"000000\.png.*48 x 32.*40 x 32"):
        training_mapper(NoSupport())({**dicts[0], "width": 40})


def test_the_configuration_sets_schedule_size_and_flip(dicts):
    cfg = add_video_config(get_cfg())
    cfg.merge_from_list(
        ["VIDEO.TRAIN_SCHEDULE.NAME", "RandomNear", "VIDEO.TRAIN_SCHEDULE.RADIUS", 1, "VIDEO.TRAIN_SCHEDULE.COUNT", 3]
    )
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (16,), "INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", True])
    cfg.merge_from_list(["VIDEO.TEST_SCHEDULE.NAME", "SlidingWindow", "INPUT.MIN_SIZE_TEST", 64])
    clip = VideoDatasetMapper(cfg, is_train=True, index=VideoIndex(dicts))(dicts[3])
    assert sorted(s["frame_index"] for s in clip["support"]) == [2, 3, 4]
    assert min(clip["image"].shape[1:]) == 16
    clip = VideoDatasetMapper(cfg, is_train=False)(dicts[0])
    assert clip["image"].shape == (3, 64, 96) and len(clip["support"]) == FRAMES - 1


def test_ignore_regions_and_crowds_follow_the_image(dicts):
    crowd = dicts[2]["annotations"][0] | {"bbox": [20.0, 0.0, 30.0, 10.0], "iscrowd": 1}
    record = dicts[2] | {
        "ignore_regions": [[40, 8, 48, 16], [0, 0, 4, 4]],
        "annotations": [*dicts[2]["annotations"], crowd],
    }
    twice_as_large, crop = transforms.ResizeTransform(32, 48, 64, 96), transforms.CropTransform(0, 8, 80, 56)
    clip = training_mapper(NoSupport(), transforms.HFlipTransform(48), twice_as_large, crop)(record)
    # Flipped: [0, 8, 8, 16], [44, 0, 48, 4] and [18, 0, 28, 10]; twice as large; 8 rows less above, 16 columns right
    assert clip["ignore_regions"].dtype == torch.float32
    assert clip["ignore_regions"].tolist() == [[0, 8, 16, 24], [36, 0, 56, 12]]
    assert len(clip["instances"]) == 1 and record["ignore_regions"] == [[40, 8, 48, 16], [0, 0, 4, 4]]


def test_a_crop_keeps_the_part_of_a_region_that_it_shows(dicts):
    record = dicts[2] | {"ignore_regions": [[0, 0, 20, 32]]}
    clip = training_mapper(NoSupport(), CentreCropTransform(15, 0, 30, 32, 48, 32))(record)
    assert clip["ignore_regions"].tolist() == [[0, 0, 5, 32]] and len(clip["instances"]) == 0


def test_a_clip_without_regions_does_not_name_them(dicts):
    assert "ignore_regions" not in training_mapper(NoSupport())(dicts[2])
    assert "ignore_regions" not in training_mapper(NoSupport())(dicts[2] | {"ignore_regions": []})
