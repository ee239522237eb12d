"""Recorded damage: what is done to frames, when, and what the annotations say of it."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from helpers.loaders import forget
from helpers.videos import moving_frames, write_video
from vod2.config import add_video_config
from vod2.d2 import BoxMode, DatasetCatalog, MetadataCatalog, get_cfg
from vod2.data import build_video_test_loader, build_video_train_loader
from vod2.data.clips.frames import read_frames
from vod2.data.damage import DAMAGES, DamageConfig, burst_at, damage_frame, plan_bursts
from vod2.data.damage.bursts import moment_of
from vod2.data.damage.kinds import Moment, covered_share
from vod2.data.datasets.damaged import register_damaged
from vod2.errors import UserError

SIZE = (48, 64)
LENGTH = 60
CONFIG = DamageConfig(seed=5, share=0.5, lengths=(3, 6))


def moment(*draws, time=0.0, seed=0):
    return Moment((*draws, 0.0, 0.0, 0.0, 0.0)[:4], time, np.random.default_rng(seed))


def dot(size=65):
    image = np.zeros((size, size, 3), np.uint8)
    image[size // 2, size // 2] = 255
    return image


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_kind_keeps_shape_type_and_its_input_and_changes_more_the_stronger_it_is(kind, channels):
    # Large enough for the weakest defocus to reach the next pixel
    frame = np.kron(moving_frames(1)[0][..., :channels], np.ones((8, 8, 1), np.uint8))
    before = frame.copy()
    changes = []
    for strength in (0.1, 0.5, 1.0):
        damaged = DAMAGES[kind](frame, strength, moment(0.1, 0.5, 0.3, 0.9))
        assert damaged.shape == frame.shape and damaged.dtype == np.uint8
        changes.append(np.abs(damaged.astype(int) - frame).mean())
    assert 0 < changes[0] < changes[1] < changes[2]
    assert np.array_equal(frame, before)


def test_motion_blur_spreads_a_dot_along_its_direction():
    # 6% of 65 pixels
    rows, columns = np.nonzero(DAMAGES["motion_blur"](dot(), 1.0, moment(0.0))[..., 0])
    assert set(rows) == {32} and 4 <= np.ptp(columns) + 1 <= 5
    rows, columns = np.nonzero(DAMAGES["motion_blur"](dot(), 1.0, moment(0.5))[..., 0])
    assert 4 <= np.ptp(rows) + 1 <= 5


def test_defocus_makes_a_round_disk_of_a_dot():
    image = np.zeros((201, 201, 3), np.uint8)
    image[100, 100] = 255
    disk = DAMAGES["defocus"](image, 1.0, moment())[..., 0] > 0
    # radius 1.8% of 201 pixels: 3.6
    assert np.array_equal(disk, disk.T) and np.array_equal(disk, disk[::-1])
    assert abs(disk.sum() - np.pi * 3.6**2) < 12


def test_low_contrast_and_low_light_do_what_their_numbers_say():
    image = np.full((200, 200, 3), 60, np.uint8)
    image[:, 100:] = 160
    hazy = DAMAGES["low_contrast"](image, 1.0, moment()).astype(float)
    assert hazy[:, 100:].mean() - hazy[:, :100].mean() == pytest.approx(15, abs=0.5)  # 15% of 100
    assert hazy[:, :100].std() == pytest.approx(12, abs=0.5)
    dark = DAMAGES["low_light"](image, 0.5, moment()).astype(float)
    assert dark[:, 100:].mean() == pytest.approx(88, abs=0.5)  # 55% of 160
    assert dark[:, 100:].std() == pytest.approx((0.5 * 88 + 4**2) ** 0.5, abs=0.3)


def test_a_gray_picture_stays_gray():
    image = np.repeat(moving_frames(1)[0][..., :1], 3, axis=2)
    for kind in DAMAGES:
        damaged = DAMAGES[kind](image, 0.7, moment(0.2, 0.1, 0.4, 0.5)).astype(int)
        assert np.abs(damaged - damaged[..., :1]).max() <= 2, kind  # JPEG rounds its colours


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_bars_cover_the_share_of_the_frame_that_goes_with_the_strength_and_move_by_one_period(strength):
    image = np.zeros((300, 300, 1), np.uint8)
    start, end = (DAMAGES["occlusion"](image, strength, moment(0.3, 0.2, 0.0, 0.9, time=t)) for t in (0.0, 0.5))
    for covered in (start, end):
        assert (covered > 0).mean() == pytest.approx(0.25 + 0.5 * strength, abs=0.03)
    assert not np.array_equal(start, end)


def test_the_covered_share_of_a_box_is_that_of_its_pixels_in_the_damaged_frame():
    image = np.zeros((90, 120, 3), np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        now = moment(*rng.random(4), time=rng.random())
        x1, y1 = rng.integers(0, 60, 2).tolist()
        box = (x1, y1, x1 + int(rng.integers(1, 60)), y1 + int(rng.integers(1, 30)))
        pixels = DAMAGES["occlusion"](image, 0.6, now)[box[1] : box[3], box[0] : box[2], 0]
        assert covered_share(box, 120, 0.6, now) == pytest.approx((pixels > 0).mean())


def test_bursts_have_the_share_the_lengths_and_a_clean_frame_between():
    for seed in range(50):
        bursts = plan_bursts(DamageConfig(seed=seed), "video", 300)
        assert sum(burst.length for burst in bursts) == 100
        assert all(4 <= burst.length <= 12 and 0.4 <= burst.strength <= 1 for burst in bursts)
        assert all(a.start + a.length < b.start for a, b in zip(bursts, bursts[1:], strict=False))
        assert bursts[0].start >= 0 and bursts[-1].start + bursts[-1].length <= 300
        kinds = [burst.kind for burst in bursts]
        assert max(kinds.count(kind) for kind in DAMAGES) - min(kinds.count(kind) for kind in DAMAGES) <= 1


@pytest.mark.parametrize("length", [1, 3, 10])
def test_short_videos_have_the_share_on_average(length):
    config = DamageConfig(share=0.4)
    damaged = [sum(b.length for b in plan_bursts(config, f"v{i}", length)) for i in range(2000)]
    assert np.mean(damaged) / length == pytest.approx(0.4, abs=0.04)
    assert max(damaged) <= length


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.1, 5), (0.9, 45), (1, 50)])
def test_any_share_can_be_had(share, count):
    assert sum(burst.length for burst in plan_bursts(DamageConfig(share=share), "v", 50)) == count


def test_frames_are_damaged_alike_in_another_process_and_in_any_order():
    frame = moving_frames(1)[0]
    wanted = {t: damage_frame(frame, CONFIG, "clip", LENGTH, t).sum() for t in reversed(range(LENGTH))}
    program = (
        "from helpers.videos import moving_frames; from vod2.data.damage import *;"
        "c = DamageConfig(seed=5, share=0.5, lengths=(3, 6)); f = moving_frames(1)[0];"
        f"print([int(damage_frame(f, c, 'clip', {LENGTH}, t).sum()) for t in range({LENGTH})])"
    )
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {program}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == str([int(wanted[t]) for t in range(LENGTH)]), done.stderr[-1000:]


def test_other_seeds_videos_and_frames_of_a_burst_differ():
    assert plan_bursts(CONFIG, "a", LENGTH) != plan_bursts(CONFIG, "b", LENGTH)
    assert plan_bursts(CONFIG, "a", LENGTH) != plan_bursts(DamageConfig(6, 0.5, (3, 6)), "a", LENGTH)
    burst = plan_bursts(DamageConfig(kinds=("low_light",)), "a", LENGTH)[0]
    noise = [moment_of(CONFIG, "a", burst, burst.start + i).rng.random() for i in range(2)]
    assert noise[0] != noise[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share is 1.5, expected a number in"),
        ({"lengths": (5, 4)}, r"lengths is \(5, 4\), expected two numbers"),
        ({"strengths": (0, 1)}, r"strengths is \(0, 1\)"),
        ({"kinds": ("rust",)}, r"kinds are \('rust',\), expected some of motion_blur"),
        ({"kinds": ()}, "expected some of"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DamageConfig(**options)


@pytest.fixture
def reel(tmp_path):
    """A registered video file of 60 frames with two objects, and its damaged version."""
    path = write_video(tmp_path / "reel.mp4", moving_frames(LENGTH, SIZE))
    boxes = [[2.0, 8.0, 14.0, 30.0], [40.0, 20.0, 60.0, 40.0]]
    notes = [{"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0, "track_id": 1} for b in boxes]
    record = {"video_id": "reel", "video_file": str(path), "height": SIZE[0], "width": SIZE[1], "video_length": LENGTH}

    def dicts():
        return [record | {"image_id": f"{t}", "frame_index": t, "annotations": notes} for t in range(LENGTH)]

    DatasetCatalog.register("reel", dicts)
    MetadataCatalog.get("reel").set(thing_classes=["elf"], evaluator_type="vid", linked_identities=True)
    register_damaged("reel_damaged", "reel", CONFIG)
    yield "reel_damaged"
    forget("reel")
    forget("reel_damaged")


def test_annotations_tell_what_happened_to_their_object_and_the_source_is_left_alone(reel):
    clean, records = DatasetCatalog.get("reel"), DatasetCatalog.get(reel)
    seen = set()
    for record in records:
        burst = burst_at(CONFIG, "reel", LENGTH, record["frame_index"])
        kinds = [annotation.get("deterioration") for annotation in record["annotations"]]
        if burst is None:
            assert kinds == [None, None] and "deterioration" not in record
            continue
        seen.add(burst.kind)
        if burst.kind != "occlusion":
            assert kinds == [{burst.kind: burst.strength}] * 2 and record["deterioration"] == kinds[0]
            continue
        now = moment_of(CONFIG, "reel", burst, record["frame_index"])
        for annotation, kind in zip(record["annotations"], kinds, strict=True):
            share = round(covered_share(annotation["bbox"], max(SIZE), burst.strength, now), 2)
            assert kind == ({"occlusion": share} if share >= 0.1 else None)
    assert seen == set(DAMAGES)
    assert all("deterioration" not in note for record in clean for note in record["annotations"])
    assert MetadataCatalog.get(reel).linked_identities and MetadataCatalog.get(reel).thing_classes == ["elf"]


def test_what_was_recorded_before_is_kept_beside_the_damage():
    box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "deterioration": {"defocus": 0.9}}
    record = {"video_id": "v", "file_name": "v", "frame_index": 0, "height": 9, "width": 9, "annotations": [box]}
    DatasetCatalog.register("blurred", lambda: [record])
    register_damaged("blurred_damaged", "blurred", DamageConfig(share=1, kinds=("low_light",), strengths=(0.5, 0.5)))
    register_damaged("blurred_more", "blurred", DamageConfig(share=1, kinds=("defocus",), strengths=(0.5, 0.5)))
    try:
        (noted,), (more,) = DatasetCatalog.get("blurred_damaged"), DatasetCatalog.get("blurred_more")
        assert noted["annotations"][0]["deterioration"] == {"defocus": 0.9, "low_light": 0.5}
        assert more["annotations"][0]["deterioration"] == {"defocus": 0.9}
    finally:
        for name in ("blurred", "blurred_damaged", "blurred_more"):
            forget(name)


@pytest.mark.parametrize("format", ["BGR", "RGB", "L"])
def test_frames_of_any_format_are_damaged_when_read_and_context_is_too(reel, format):
    record, clean = DatasetCatalog.get(reel)[0], DatasetCatalog.get("reel")[0]
    before, after = (read_frames(r, range(LENGTH), format=format) for r in (clean, record))
    bgr = read_frames(clean, range(LENGTH))
    for t in range(LENGTH):
        wanted = damage_frame(before[t] if format == "L" else bgr[t], CONFIG, "reel", LENGTH, t)
        assert np.array_equal(after[t], wanted[..., ::-1] if format == "RGB" else wanted)
        assert np.array_equal(after[t], before[t]) == (burst_at(CONFIG, "reel", LENGTH, t) is None)


def test_images_are_damaged_like_frames_of_a_video_file(tmp_path):
    frames = moving_frames(LENGTH, SIZE)
    for t, frame in enumerate(frames):
        cv2.imwrite(f"{tmp_path}/{t:06d}.png", frame)
    record = {"file_name": f"{tmp_path}/000000.png", "frame_template": f"{tmp_path}/%06d.png", "frame_offset": 0}
    record |= {"video_id": "reel", "frame_index": 0, "video_length": LENGTH, "height": SIZE[0], "width": SIZE[1]}
    for t, image in read_frames(record | {"damage": CONFIG}, range(LENGTH)).items():
        assert np.array_equal(image, damage_frame(frames[t], CONFIG, "reel", LENGTH, t))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loaders_of_training_and_test_yield_damaged_frames_whatever_the_workers(reel, workers):
    cfg = add_video_config(get_cfg())
    cfg.merge_from_list(["DATASETS.TRAIN", (reel,), "DATALOADER.NUM_WORKERS", workers, "SEED", 1])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 0, "INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.MAX_SIZE_TRAIN", 64])
    cfg.merge_from_list(["INPUT.RANDOM_FLIP", "none", "SOLVER.IMS_PER_BATCH", 4])
    cfg.VIDEO.TRAIN_SCHEDULE.NAME = "RandomNear"
    wanted = read_frames(DatasetCatalog.get(reel)[0], range(LENGTH))
    for (clip,) in build_video_test_loader(cfg, reel):
        assert np.array_equal(clip["image"].permute(1, 2, 0).numpy(), wanted[clip["frame_index"]])
    batch = next(iter(build_video_train_loader(cfg)))
    for frame in [*batch, *(support for clip in batch for support in clip["support"])]:
        assert np.array_equal(frame["image"].permute(1, 2, 0).numpy(), wanted[frame["frame_index"]])
