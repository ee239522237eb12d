"""The synthetic benchmark: what its videos guarantee, and how they lie on disk."""

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest

from helpers.modules import load_module
from vod2.atomic import write_json
from vod2.data.synthetic import (
    SYNTHETIC_CLASSES,
    SyntheticConfig,
    look_alikes,
    read_deterioration,
    render_video,
    scene,
    video_id,
    write_mp4,
    write_synthetic,
)
from vod2.data.synthetic import writer as synthetic_writer
from vod2.data.synthetic.classes import draw_class
from vod2.data.synthetic.deterioration import AMBIGUOUS_FROM, ObjectLayer, motion_blur
from vod2.data.synthetic.motion import CLEAN_WITHIN, draw_ranges, draw_trajectory
from vod2.data.synthetic.sprite import draw_appearance, draw_sprite
from vod2.errors import UserError
from vod2.locking import locked_file

TOOL = Path(__file__).parents[3] / "tools" / "make_synthetic.py"
CONFIG = SyntheticConfig(seed=3, train_videos=2, val_videos=3, frames=20, height=96, width=128, classes=6)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("synthetic") / "set"
    write_synthetic(CONFIG, output)
    return output


def _tool():
    return load_module(TOOL)


def _contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _videos(config):
    return [(split, index) for split in ("train", "val") for index in range(config.video_count(split))]


def _all_same(video, other):
    return all(np.array_equal(a, b) and x == y for (a, x), (b, y) in zip(video, other, strict=True))


def test_the_same_configuration_gives_the_same_bytes(written, tmp_path):
    write_synthetic(CONFIG, tmp_path / "again")
    assert _contents(tmp_path / "again") == _contents(written)


def test_a_video_does_not_depend_on_how_many_there_are():
    more = replace(CONFIG, train_videos=50, val_videos=70)
    assert _all_same(render_video(CONFIG, "val", 2), render_video(more, "val", 2))


def test_the_manifest_of_a_usual_set_is_the_one_from_before_there_was_a_speed(written):
    assert "speed" not in json.loads((written / "synthetic.json").read_text())["config"]


def test_a_path_is_the_one_that_its_seed_has_always_given():
    path = draw_trajectory(np.random.default_rng(3), 20, 96, 128)
    np.testing.assert_allclose(path.centre[0], [57.02470508876397, 55.42871332466335], rtol=1e-9)
    np.testing.assert_allclose(path.centre[10], [55.556182709416895, 56.22707779156773], rtol=1e-9)


def _paths(speed):
    """Centres of the boxes (20, 2) in pixels of the first object of each of 40 videos."""
    config = replace(CONFIG, val_videos=40, max_objects=1, speed=speed)
    videos = [[objects[0].box for _, objects in render_video(config, "val", index)] for index in range(40)]
    return np.array([[[(x1 + x2) / 2, (y1 + y2) / 2] for x1, y1, x2, y2 in boxes] for boxes in videos])


def test_objects_of_a_fast_set_move_farther_from_frame_to_frame_and_stay_in_the_image():
    usual, fast = _paths(1.0), _paths(5.0)
    step = [np.abs(np.diff(paths, axis=1)).mean() for paths in (usual, fast)]
    assert 2.5 < step[1] / step[0] < 5  # the fastest are held back, paths bend at least every 8 frames
    assert (fast >= 0).all() and (fast <= (128, 96)).all()


def test_a_fast_set_says_so_and_does_not_go_on_a_usual_one(written, tmp_path):
    fast = replace(CONFIG, train_videos=0, val_videos=1, speed=4.0)
    write_synthetic(fast, tmp_path / "set")
    assert json.loads((tmp_path / "set" / "synthetic.json").read_text())["config"]["speed"] == 4
    with pytest.raises(UserError, match="speed 1.0, not 4.0"):
        write_synthetic(replace(CONFIG, speed=4.0), written)


def test_splits_seeds_and_indices_give_different_videos():
    first = next(render_video(CONFIG, "train", 0))[0]
    others = [
        render_video(CONFIG, "val", 0),
        render_video(CONFIG, "train", 1),
        render_video(replace(CONFIG, seed=4), "train", 0),
    ]
    assert not any(np.array_equal(first, next(other)[0]) for other in others)


def test_every_frame_has_a_jpeg_of_the_size_and_an_xml(written):
    for split, index in _videos(CONFIG):
        frames = [f"{frame:06d}" for frame in range(CONFIG.frames)]
        data = written / "Data" / "VID" / video_id(split, index)
        annotations = written / "Annotations" / "VID" / video_id(split, index)
        assert sorted(path.name for path in data.iterdir()) == [f"{frame}.JPEG" for frame in frames]
        assert sorted(path.stem for path in annotations.glob("*.xml")) == frames
        assert cv2.imread(str(data / "000000.JPEG")).shape == (96, 128, 3)
    assert not (written / ".partial").exists()


def test_videos_lie_where_imagenet_vid_has_them():
    assert video_id("train", 7) == "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000007"
    assert video_id("train", 1000) == "train/ILSVRC2015_VID_train_0001/ILSVRC2015_train_00001000"
    assert video_id("val", 7) == "val/ILSVRC2015_val_00000007"


def test_the_xml_says_what_was_rendered(written):
    for frame, (_, objects) in enumerate(render_video(CONFIG, "train", 1)):
        root = ElementTree.parse(written / "Annotations/VID" / video_id("train", 1) / f"{frame:06d}.xml").getroot()
        assert root.findtext("folder") == "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000001"
        assert root.findtext("filename") == f"{frame:06d}"
        assert (root.findtext("size/width"), root.findtext("size/height")) == ("128", "96")
        found = []
        for item in root.findall("object"):
            box = tuple(int(item.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            found.append((int(item.findtext("trackid")), item.findtext("name"), box))
            assert (item.findtext("occluded"), item.findtext("generated")) == ("0", "0")
        assert found == [(item.track_id, item.name, item.box) for item in objects]


def test_the_training_list_names_the_middle_frames_of_fifteen_parts(written):
    lines = (written / "ImageSets/VID/VID_train_15frames.txt").read_text().splitlines()
    assert len(lines) == 2 * 15
    # floor((i + .5) * 20 / 15) for i = 0 ... 14, by hand
    frames = [0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19]
    name = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000001"
    assert lines[15:] == [f"{name} 1 {frame} 20" for frame in frames]


def test_the_training_list_names_all_frames_of_short_videos(tmp_path):
    write_synthetic(replace(CONFIG, train_videos=1, val_videos=0, frames=4), tmp_path / "set")
    lines = (tmp_path / "set/ImageSets/VID/VID_train_15frames.txt").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [["1", str(frame), "4"] for frame in range(4)]


def test_the_validation_list_numbers_its_frames_from_one(written):
    lines = (written / "ImageSets/VID/VID_val_videos.txt").read_text().splitlines()
    assert lines == [f"val/ILSVRC2015_val_0000000{index} {1 + 20 * index} 0 20" for index in range(3)]


def test_the_manifest_names_the_classes_and_the_configuration(written):
    manifest = json.loads((written / "synthetic.json").read_text())
    assert manifest["class_names"] == list(SYNTHETIC_CLASSES[:6])
    assert manifest["config"]["seed"] == 3
    assert manifest["generator_version"] >= 1


def test_the_sidecar_holds_exactly_the_deteriorated_objects(written):
    for split, index in _videos(CONFIG):
        found = read_deterioration(written / "Annotations/VID" / video_id(split, index) / "deterioration.json")
        expected = defaultdict(dict)
        for frame, (_, objects) in enumerate(render_video(CONFIG, split, index)):
            for item in objects:
                if item.deterioration:
                    expected[frame][item.track_id] = item.deterioration
        assert found == expected
        assert all(0 < kinds["motion_blur"] <= 1 for tracks in found.values() for kinds in tracks.values())


def test_a_box_is_around_the_pixels_that_the_object_changes(monkeypatch):
    config = replace(CONFIG, frames=8, max_objects=1, blur_fraction=0, classes=30, val_videos=30)
    with_object = [list(render_video(config, "val", index)) for index in range(30)]
    monkeypatch.setattr(scene, "_blend", lambda *_: None)
    for index, frames in enumerate(with_object):
        for (image, (item,)), (empty, _) in zip(frames, render_video(config, "val", index), strict=True):
            changed = np.abs(image.astype(int) - empty).max(axis=2) > 25
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            around = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(item.box, around, atol=2)


def test_boxes_lie_in_the_image_and_are_of_a_learnable_size():
    config = replace(CONFIG, frames=40, classes=30, val_videos=12)
    for index in range(12):
        for _, objects in render_video(config, "val", index):
            for item in objects:
                x1, y1, x2, y2 = item.box
                assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 96
                # 18% to 45% of 96 pixels; turned, a square reaches 1.28 times as far; at the border less is visible.
                assert 0.18 * 96 * 0.6 <= max(x2 - x1, y2 - y1) <= 0.45 * 96 * 1.28 + 2


def test_objects_do_not_overlap():
    config = replace(CONFIG, frames=40, val_videos=20, max_objects=5)
    most = 0
    for index in range(20):
        for _, objects in render_video(config, "val", index):
            most = max(most, len(objects))
            for number, (a1, b1, a2, b2) in enumerate(item.box for item in objects):
                for x1, y1, x2, y2 in (item.box for item in objects[:number]):
                    assert min(a2, x2) <= max(a1, x1) or min(b2, y2) <= max(b1, y1)
    assert most > 2


def test_every_track_has_a_clean_frame_near_each_blurred_one_and_about_the_wanted_share():
    config = replace(CONFIG, frames=60, val_videos=10)
    for index in range(10):
        blurred = defaultdict(dict)
        for frame, (_, objects) in enumerate(render_video(config, "val", index)):
            for item in objects:
                blurred[item.track_id][frame] = bool(item.deterioration)
        for frames in blurred.values():
            assert 0.35 <= np.mean(list(frames.values())) <= 0.55
            clean = np.array([frame for frame, is_blurred in frames.items() if not is_blurred])
            assert all(np.abs(clean - frame).min() <= CLEAN_WITHIN for frame in frames)


@pytest.mark.parametrize("frames", [2, 3, 15, 100, 1000])
@pytest.mark.parametrize("fraction", [0.001, 0.4, 0.75])
def test_ranges_are_apart_short_and_leave_frames_outside(frames, fraction):
    for seed in range(20):
        ranges = draw_ranges(np.random.default_rng(seed), frames, fraction)
        assert ranges and all(0 < stop - start <= CLEAN_WITHIN for start, stop in ranges)
        assert all(stop < start for (_, stop), (start, _) in zip(ranges, ranges[1:], strict=False))
        assert ranges[0][0] >= 0 and ranges[-1][1] <= frames
        inside = sum(stop - start for start, stop in ranges)
        assert inside == min(max(round(frames * fraction), 1), frames - 1)


def test_no_blur_is_drawn_where_none_is_wanted():
    video = render_video(replace(CONFIG, blur_fraction=0), "val", 0)
    assert not any(item.deterioration for _, objects in video for item in objects)


def test_a_track_keeps_its_class():
    names = defaultdict(set)
    for _, objects in render_video(CONFIG, "train", 1):
        for item in objects:
            names[item.track_id].add(item.name)
    assert names and all(len(found) == 1 for found in names.values())


def test_there_are_thirty_classes_and_the_first_six_are_stripes_on_three_shapes():
    assert len(set(SYNTHETIC_CLASSES)) == 30
    assert SYNTHETIC_CLASSES[:6] == (
        "disc_stripes_0",
        "disc_stripes_90",
        "square_stripes_0",
        "square_stripes_90",
        "triangle_stripes_0",
        "triangle_stripes_90",
    )
    for category, name in enumerate(SYNTHETIC_CLASSES):
        assert {SYNTHETIC_CLASSES[member].split("_")[0] for member in look_alikes(category)} == {name.split("_")[0]}


def test_stripes_of_zero_degrees_run_from_left_to_right():
    _, marking = draw_class(SYNTHETIC_CLASSES.index("square_stripes_0"), 100, 0.1)
    inside = marking[10:90, 10:90]
    assert (inside == inside[:, :1]).all() and 0.3 < inside.mean() < 0.7
    _, marking = draw_class(SYNTHETIC_CLASSES.index("square_stripes_90"), 100, 0.1)
    inside = marking[10:90, 10:90]
    assert (inside == inside[:1]).all() and 0.3 < inside.mean() < 0.7


def _blurred(category, strength):
    sprite = draw_sprite(category, draw_appearance(np.random.default_rng(5), 0.3), 50)
    matrix = np.array([[0.6, 0, 30.0], [0, 0.6, 30.0]])
    return motion_blur(ObjectLayer(sprite, matrix, 91, 30.0, np.array([0.6, 0.8])), strength)


@pytest.mark.parametrize("category", range(0, 30, 2))
def test_look_alikes_are_the_same_pixels_in_strong_blur_and_not_in_weak(category):
    strong = [_blurred(member, AMBIGUOUS_FROM) for member in look_alikes(category)]
    weak = [_blurred(member, 0.1) for member in look_alikes(category)]
    np.testing.assert_array_equal(*strong)
    assert np.abs(weak[0] - weak[1]).max() > 20


def test_blur_keeps_the_amount_of_object_and_spreads_it_along_the_motion():
    alpha = _blurred(0, 1.0)[:, :, 3]
    still = _blurred(0, 1e-6)[:, :, 3]
    assert alpha.sum() == pytest.approx(still.sum(), rel=1e-3)
    spread = []
    for image in (alpha, still):
        y, x = np.mgrid[:91, :91] - 45.0
        along, across = 0.6 * x + 0.8 * y, 0.8 * x - 0.6 * y
        spread.append([np.sqrt((image * axis**2).sum() / image.sum()) for axis in (along, across)])
    # A line of length 0.65 * 30 has the variance of a uniform distribution.
    assert spread[0][0] ** 2 - spread[1][0] ** 2 == pytest.approx((0.65 * 30) ** 2 / 12, rel=0.15)
    assert spread[0][1] == pytest.approx(spread[1][1], rel=0.05)


def test_an_interrupted_set_is_completed_and_finished_videos_are_kept(written, tmp_path, monkeypatch):
    complete = _contents(written)
    output = tmp_path / "set"
    rendered = []

    def failing(config, split, index):
        rendered.append((split, index))
        for number, frame in enumerate(render_video(config, split, index)):
            if (split, index, number) == ("val", 0, 3):
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(synthetic_writer, "render_video", failing)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(CONFIG, output)
    assert not (output / "Data/VID" / video_id("val", 0)).exists()
    rendered.clear()
    monkeypatch.setattr(synthetic_writer, "render_video", lambda *job: rendered.append(job[1:]) or render_video(*job))
    write_synthetic(CONFIG, output)
    assert rendered == [("val", 0), ("val", 1), ("val", 2)]
    assert _contents(output) == complete


def test_a_set_that_another_process_writes_is_refused_and_its_work_left_alone(tmp_path):
    output = tmp_path / "set"
    (output / ".partial").mkdir(parents=True)
    write_json(output / "synthetic.json", synthetic_writer.QuickSet(CONFIG).manifest())
    (work := output / ".partial" / "frame.jpg").write_bytes(b"of the other")
    with locked_file(output / ".writing.lock", "processes"):
        with pytest.raises(UserError, match=rf"{output} is in use by process {os.getpid()}.* give another folder"):
            write_synthetic(CONFIG, output)
        assert work.read_bytes() == b"of the other"
    write_synthetic(CONFIG, output)
    assert not work.exists() and not (output / ".writing.lock").exists()


def test_a_folder_with_another_set_is_refused_and_left_alone(written):
    before = _contents(written)
    with pytest.raises(UserError, match="another synthetic set .*seed 3, not 4"):
        write_synthetic(replace(CONFIG, seed=4), written)
    assert _contents(written) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        write_synthetic(CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 31},
        {"classes": 0},
        {"frames": 0},
        {"height": 10},
        {"seed": -1},
        {"blur_fraction": 1.0},
        {"speed": 0},
    ],
)
def test_a_wrong_value_is_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}="):
        replace(CONFIG, **change)


def test_a_video_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3 videos"):
        render_video(CONFIG, "val", 3)
    with pytest.raises(ValueError, match="split='test'"):
        render_video(CONFIG, "test", 0)
    with pytest.raises(UserError, match="No video 'val/9'"):
        write_mp4(CONFIG, "val/9", tmp_path / "clip.mp4")


def test_an_mp4_has_all_frames_and_an_even_size(tmp_path):
    config = replace(CONFIG, height=97, width=129, frames=11)
    write_mp4(config, video_id("val", 1), tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(98, 130, 3)] * 11
    expected = next(render_video(config, "val", 1))[0]
    assert np.abs(frames[0][:97, :129].astype(int) - expected).mean() < 12


def test_the_command_writes_the_set_and_the_mp4(tmp_path):
    arguments = ["--output", str(tmp_path / "set"), "--seed", "3", "--size", "96x128", "--frames", "20"]
    arguments += ["--train-videos", "0", "--val-videos", "1", "--classes", "6"]
    _tool().main([*arguments, "--mp4", "val/ILSVRC2015_val_00000000", str(tmp_path / "clip.mp4")])
    write_synthetic(replace(CONFIG, train_videos=0, val_videos=1), tmp_path / "expected")
    assert _contents(tmp_path / "set") == _contents(tmp_path / "expected")
    assert (tmp_path / "clip.mp4").stat().st_size > 0
    with pytest.raises(UserError, match="seed 3, not 8"):
        _tool().main([*arguments, "--seed", "8"])


@pytest.mark.parametrize("mistake", [["--size", "96"], ["--blur-fraction", "2"]])
def test_the_command_names_a_wrong_argument(mistake, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "set"), "--size", "96x128", "--frames", "3"]
    with pytest.raises(SystemExit):
        _tool().main([*arguments, "--train-videos", "0", "--val-videos", "1", *mistake])
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
