"""VOD-Synth 1: what its frames guarantee, its bytes, its files, and its versions."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.modules import load_module
from vod2.data.checks.ilsvrc import ImageNetDet, ImageNetVid
from vod2.data.checks.walk import check_dataset
from vod2.data.datasets.imagenet_vid import load_imagenet_vid
from vod2.data.datasets.vod_synth import load_vod_synth
from vod2.data.synthetic import layout, read_deterioration, read_visibility, video_id
from vod2.data.synthetic.vod_synth import (
    BENCHMARK,
    KINDS,
    REVISION,
    SIZES,
    VOD_SYNTH_CLASSES,
    VodSynth,
    look_alike_group,
    scene,
    write_vod_synth,
)
from vod2.data.synthetic.vod_synth import deterioration as bad
from vod2.data.synthetic.vod_synth.drawing import UNIT, Patch, Pose, average, covered_pixels, draw_mask, fill
from vod2.data.synthetic.vod_synth.look import draw_look, draw_object_look
from vod2.data.synthetic.vod_synth.paths import Path as WorldPath
from vod2.data.synthetic.vod_synth.picture import contact_sheet
from vod2.errors import UserError
from vod2.evaluation.motion import motion_iou, speed_groups

TOOL = Path(__file__).parents[3] / "tools" / "make_synthetic.py"
SMALLEST = VodSynth("smallest", 2, 9, 2, 41, stills=3, height=96, width=128, classes=6)


@pytest.fixture(autouse=True)
def _smallest_size(monkeypatch):
    monkeypatch.setitem(SIZES, "smallest", SMALLEST)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("vod_synth") / "set"
    write_vod_synth(SMALLEST, output)
    return output


@pytest.fixture(scope="module")
def videos():
    """{index: frames} of some videos long enough for every kind of burst."""
    source = replace(SMALLEST, val_videos=16, val_frames=16 * 30, classes=30)
    return {index: list(source.render("val", index)) for index in range(16)}


def _contents(folder):
    """Of all files but the readers' cache."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".vod2_cache" not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def _tool():
    return load_module(TOOL)


def _digest(folder):
    """Of decoded pixels and of the text beside them."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".JPEG":
            digest.update(cv2.imread(str(path)).tobytes())
        elif path.suffix in (".xml", ".txt"):
            digest.update(path.read_bytes())
        elif path.suffix == ".json" and path.name != "synthetic.json":
            digest.update(json.dumps(json.loads(path.read_text()), sort_keys=True).encode())
    return digest.hexdigest()


def test_the_set_is_the_published_one_to_the_pixel(written):
    # A difference means that results are no longer comparable: raise REVISION, or find what draws differently here.
    assert _digest(written) == "410ebc3eb76b1ecf1e6381bd63ba7d5a6e852673dd2f5ee364ae631582f2c412"


def test_any_number_of_workers_gives_the_same_bytes(written, tmp_path):
    write_vod_synth(SMALLEST, tmp_path / "set", workers=2)
    assert _contents(tmp_path / "set") == _contents(written)


def test_a_video_does_not_depend_on_how_many_there_are():
    more = replace(SMALLEST, train_videos=7, train_frames=4 * 7)
    few = replace(SMALLEST, train_videos=2, train_frames=4 * 2)
    for (image, objects), (other, same) in zip(few.render("train", 1), more.render("train", 1), strict=True):
        assert np.array_equal(image, other) and objects == same


def test_splits_and_stills_show_different_things():
    shots = [next(SMALLEST.render("train", 0))[0], next(SMALLEST.render("val", 0))[0], SMALLEST.render_still(0)[0]]
    assert not any(np.array_equal(a, b) for i, a in enumerate(shots) for b in shots[:i])


def test_an_interrupted_set_is_completed_and_what_was_finished_is_kept(written, tmp_path, monkeypatch):
    output, made = tmp_path / "set", []
    usual = VodSynth.render

    def failing(self, split, index):
        made.append((split, index))
        if (split, index) == ("val", 0):
            raise KeyboardInterrupt
        return usual(self, split, index)

    monkeypatch.setattr(VodSynth, "render", failing)
    with pytest.raises(KeyboardInterrupt):
        write_vod_synth(SMALLEST, output)
    made.clear()
    monkeypatch.setattr(VodSynth, "render", lambda self, *job: made.append(job) or usual(self, *job))
    write_vod_synth(SMALLEST, output)
    assert made == [("val", 0), ("val", 1)]
    assert _contents(output) == _contents(written)


def _painted(category, kinds, blotches=True):
    """A class drawn by itself under {kind: percent}: (81, 81, 4)."""
    look = draw_object_look(np.random.default_rng(5), category, 200)
    look = look if blotches else replace(look, blotches=())
    middle = 40 * UNIT + UNIT // 2
    pose, patch = Pose(middle, middle, 30 * UNIT, 0.0, bad.squeeze(kinds.get("rare_pose", 0))), Patch(0, 0, 81)
    mask, still = draw_mask(look.shape, pose, patch), np.zeros(1, np.int64)
    thing = scene.Thing(category, look, WorldPath(still, still, still, still), [kinds], range(1))
    return scene._paint(scene._View(thing, pose, patch, mask, covered_pixels(mask), (30, 40), kinds))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("category", range(0, 30, 3))
def test_look_alikes_are_the_same_pixels_from_half_strength_on_and_not_before(kind, category):
    for strength, same in ((50, True), (100, True), (20, False)):
        patches = [_painted(member, {kind: strength}) for member in look_alike_group(category)]
        for number, patch in enumerate(patches):
            for other in patches[:number]:
                assert np.array_equal(patch, other) == same


def test_groups_share_a_silhouette_and_are_no_one_elses_look_alikes():
    assert len(set(VOD_SYNTH_CLASSES)) == 30
    for category, name in enumerate(VOD_SYNTH_CLASSES):
        group = look_alike_group(category)
        assert category in group and len(group) == 3
        assert {VOD_SYNTH_CLASSES[member].split("_")[0] for member in group} == {name.split("_")[0]}


@pytest.mark.parametrize("category", range(30))
def test_every_class_equals_its_mirror_image(category):
    patch = _painted(category, {}, blotches=False)
    assert np.abs(patch - patch[:, ::-1]).mean() < 1


def test_motion_blur_is_the_mean_over_the_path_of_the_exposure():
    layer = np.zeros((21, 21, 4), np.int32)
    layer[10, 10] = 250
    blurred = bad.motion_blur(layer, 4, (7, 0))
    expected = np.zeros((21, 21), np.int32)
    expected[10, 8:13] = 50  # five places, two pixels either way
    np.testing.assert_array_equal(blurred[:, :, 0], expected)
    np.testing.assert_array_equal(bad.motion_blur(layer, 4, (0, -3))[:, :, 3], expected.T)


def test_defocus_is_the_mean_over_a_square_taken_twice():
    layer = np.zeros((11, 11, 4), np.int32)
    layer[5, 5] = 81
    blurred = bad.defocus(layer, 1)[:, :, 0]
    # 81 over nine pixels is 9 each; the mean of these over squares is a pyramid of 1 2 3 2 1 in both directions.
    pyramid = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1])
    np.testing.assert_array_equal(blurred[3:8, 3:8], pyramid)
    assert blurred.sum() == 81


def test_low_light_keeps_the_wanted_share_of_light_and_adds_noise():
    image = np.full((60, 80, 3), 200, np.uint8)
    dark = bad.low_light(image, 100, np.random.default_rng(0)).astype(int)
    assert dark.mean() == pytest.approx(50, abs=0.5)  # a quarter
    # The sum of two dice with faces -16 ... 16 has the variance 2 * 16 * 17 / 3.
    assert dark.std() == pytest.approx((2 * 16 * 17 / 3) ** 0.5, rel=0.03)


def test_stronger_compression_loses_more(videos):
    image = videos[0][0][0]
    losses = [np.abs(bad.compression(image, strength).astype(int) - image).mean() for strength in (1, 50, 100)]
    assert losses[0] < losses[1] < losses[2]


def test_a_square_is_drawn_where_its_pose_says():
    pose, patch = Pose(10 * UNIT, 12 * UNIT, 8 * UNIT), Patch(0, 0, 30)
    canvas = patch.canvas()
    fill(canvas, [[(0, 0), (1, 0), (1, 1), (0, 1)]], pose, patch, 1)
    samples = average(canvas)
    assert (samples[8:16, 6:14] == 16).all()  # pixels 6 to 13 across, 8 to 15 down, covered whole
    # OpenCV fills the samples on the outline too: no more than half a pixel further out.
    samples[7:17, 5:15] = 0
    assert not samples.any()


def test_every_kind_comes_at_graded_strengths_and_in_bursts(videos):
    counts, strengths, lengths = Counter(), {kind: set() for kind in KINDS}, Counter()
    for frames in videos.values():
        before = {}
        for _, objects in frames:
            for item in objects:
                for kind, strength in item.deterioration.items():
                    counts[kind] += 1
                    strengths[kind].add(strength)
                    lengths["goes on"] += before.get((item.track_id, kind)) == strength
                    assert 0.25 <= strength <= 1
            before = {(item.track_id, kind): s for item in objects for kind, s in item.deterioration.items()}
    assert set(counts) == set(KINDS)
    assert all(len(found) > 1 for kind, found in strengths.items() if kind in bad.OBJECT_KINDS)
    assert lengths["goes on"] > 0.5 * sum(counts.values())


def test_outside_of_hard_stretches_a_frame_is_clean_but_for_objects_that_cross(videos):
    """Of the frames where nothing but occlusion is recorded, under half have any; in others every object has a kind."""
    own = set(KINDS) - {"occlusion"}
    easy, crossed, spared = 0, 0, 0
    for frames in videos.values():
        for _, objects in frames:
            hit = [bool(own.intersection(item.deterioration)) for item in objects]
            easy += not any(hit)
            crossed += not any(hit) and any(item.deterioration for item in objects)
            spared += any(hit) and not all(hit)
    assert easy > 100 and crossed < 0.5 * easy and spared == 0


def test_kinds_of_the_frame_befall_every_object_of_it(videos):
    for frames in videos.values():
        for _, objects in frames:
            for kind in bad.FRAME_KINDS:
                assert len({item.deterioration.get(kind) for item in objects}) <= 1


def test_there_are_slow_medium_and_fast_objects(videos):
    rows = [
        (100 * index + item.track_id, time, item.box)
        for index, frames in videos.items()
        for time, (_, objects) in enumerate(frames)
        for item in objects
    ]
    track, frame, boxes = (np.array(column) for column in zip(*rows, strict=True))
    assert all(member.mean() > 0.1 for member in speed_groups(motion_iou(track, frame, boxes)).values())


def test_objects_overlap_and_what_is_hidden_is_recorded(videos):
    hidden = Counter()
    for frames in videos.values():
        for _, objects in frames:
            for item in objects:
                x1, y1, x2, y2 = item.box
                assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 96
                assert 0.2 <= item.visible_share <= 1
                share = item.deterioration.get("occlusion", 0)
                # Hidden pixels are those of the image; what is outside of it is not seen either.
                assert item.visible_share <= 1 - share + 0.02
                hidden["half" if share >= 0.5 else "some" if share else "none"] += 1
    assert min(hidden["none"], hidden["some"], hidden["half"]) > 20


def test_the_hidden_share_counts_the_pixels_of_what_is_in_front():
    front = np.zeros((40, 40), np.int16)
    front[:, 20:] = 1  # something covers the right half of the frame
    pixels = np.zeros((20, 20), bool)
    pixels[5:15, 5:15] = True  # 100 pixels, columns 15 to 24 of the frame: five columns are hidden
    item = scene._View(None, None, Patch(10, 10, 20), None, pixels, (0, 0), {})
    assert scene._hidden_and_visible(item, 0, front) == (0.5, 0.5)
    # Columns -5 to 4: half is outside of the frame, nothing is hidden of what is inside.
    outside = scene._View(None, None, Patch(-10, 10, 20), None, pixels, (0, 0), {})
    assert scene._hidden_and_visible(outside, 0, front) == (0.0, 0.5)


def test_distractors_are_drawn_and_not_annotated(monkeypatch):
    monkeypatch.setattr(scene, "_DISTRACTORS", (0, 0))
    without = SMALLEST.render_still(1)
    monkeypatch.setattr(scene, "_DISTRACTORS", (2, 2))
    drawn = []
    usual = scene.draw_distractor_look
    monkeypatch.setattr(scene, "draw_distractor_look", lambda *args: drawn.append(usual(*args)) or drawn[-1])
    image, objects = SMALLEST.render_still(1)
    assert len(drawn) == 2 and not np.array_equal(image, without[0])
    assert {item.track_id for item in objects} <= {item.track_id for item in without[1]}


def test_the_sidecars_hold_what_was_rendered(written):
    for split, count in (("train", 2), ("val", 2)):
        for index in range(count):
            folder = written / "Annotations/VID" / video_id(split, index)
            kinds, shares = {}, {}
            for time, (_, objects) in enumerate(SMALLEST.render(split, index)):
                kinds[time] = {item.track_id: item.deterioration for item in objects if item.deterioration}
                shares[time] = {item.track_id: item.visible_share for item in objects if item.visible_share < 1}
            found = read_deterioration(folder / "deterioration.json")
            assert found == {time: tracks for time, tracks in kinds.items() if tracks}
            found = read_visibility(folder / "visibility.json")
            assert found == {time: tracks for time, tracks in shares.items() if tracks}


def test_lists_have_videos_of_almost_equal_length_and_all_stills(written):
    lists = written / "ImageSets"
    # 41 frames in two videos: 21 and 20; 9 frames: 5 and 4, all of them listed.
    names = [video_id("val", index) for index in range(2)]
    assert (lists / "VID/VID_val_videos.txt").read_text() == f"{names[0]} 1 0 21\n{names[1]} 22 0 20\n"
    rows = [line.split()[1:] for line in (lists / "VID/VID_train_15frames.txt").read_text().splitlines()]
    assert rows == [["1", str(t), "5"] for t in range(5)] + [["1", str(t), "4"] for t in range(4)]
    stills = (lists / "DET/DET_train_30classes.txt").read_text().splitlines()
    assert stills == [f"train/SYNTHETIC_DET_train_0000/{index:08d} 1" for index in range(3)]


def test_the_full_size_has_imagenets_numbers():
    full = SIZES["full"]
    lengths = [full.video_length("val", index) for index in range(full.val_videos)]
    assert (full.val_videos, sum(lengths), max(lengths) - min(lengths)) == (555, 176_126, 1)
    assert (full.train_videos, full.train_frames) == (3_862, 1_122_397)


def test_the_readers_of_imagenet_read_videos_and_stills(written):
    frames = load_vod_synth(written, "val", "smallest", "test")
    assert len(frames) == 41 and [d["video_length"] for d in frames[:1]] == [21]
    rendered = {time: objects for time, (_, objects) in enumerate(SMALLEST.render("val", 0))}
    for record in frames[:21]:
        objects = rendered[record["frame_index"]]
        for annotation, item in zip(record["annotations"], objects, strict=True):
            assert tuple(annotation["bbox"]) == item.box and annotation["category_id"] == item.category_id
            assert annotation.get("deterioration", {}) == item.deterioration
            assert annotation["occluded"] == ("occlusion" in item.deterioration)
    stills = load_vod_synth(written, "det", "smallest", "test")
    for index, record in enumerate(stills):
        _, objects = SMALLEST.render_still(index)
        assert record["video_length"] == 1
        assert [a["category_id"] for a in record["annotations"]] == [item.category_id for item in objects]
    assert len(load_vod_synth(written, "train_all", "smallest", "test")) == 9
    assert len(load_imagenet_vid(written, "val")) == 41  # the manifest names the classes


@pytest.mark.parametrize("source", [ImageNetVid, ImageNetDet])
def test_the_check_of_datasets_finds_nothing_wrong(written, source):
    assert check_dataset(source(written), progress=False).findings == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("revision", REVISION + 1, f"revision {REVISION + 1}, not {REVISION}"), ("size", "tiny", "size 'tiny'")],
)
def test_another_version_or_size_is_refused_when_read(written, tmp_path, key, value, said):
    manifest = json.loads((written / layout.MANIFEST).read_text())
    (tmp_path / layout.MANIFEST).write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(UserError, match=f"{said}.*make_synthetic.py --benchmark {BENCHMARK} --size smallest"):
        load_vod_synth(tmp_path, "val", "smallest", "test")


def test_a_set_that_is_not_there_or_has_no_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.*make_synthetic"):
        load_vod_synth(tmp_path / "gone", "det", "tiny", "test")
    with pytest.raises(UserError, match=r"synthetic\.json.*make_synthetic"):
        load_vod_synth(tmp_path, "val", "tiny", "test")


def test_a_set_that_was_interrupted_is_not_read(written, tmp_path):
    shutil.copytree(written, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "ImageSets")
    for part in ("train", "val", "det"):
        with pytest.raises(UserError, match="not complete.*make_synthetic"):
            load_vod_synth(tmp_path / "set", part, "smallest", "test")


def test_a_size_without_stills_needs_no_list_of_them(monkeypatch, tmp_path):
    """Such as that of the demo, which has no training videos either."""
    bare = VodSynth("bare", 0, 0, 1, 3, stills=0, height=96, width=128, classes=6)
    monkeypatch.setitem(SIZES, "bare", bare)
    write_vod_synth(bare, tmp_path / "set")
    assert len(load_vod_synth(tmp_path / "set", "val", "bare", "test")) == 3
    with pytest.raises(UserError):
        load_vod_synth(tmp_path / "set", "det", "bare", "test")


def test_a_folder_with_another_size_is_refused_and_left_alone(written):
    before = _contents(written)
    with pytest.raises(UserError, match="another synthetic set .*size 'smallest', not 'other'"):
        write_vod_synth(replace(SMALLEST, size="other"), written)
    assert _contents(written) == before


@pytest.mark.parametrize("change", [{"height": 63}, {"width": 129}, {"val_frames": 1}, {"stills": -1}, {"classes": 4}])
def test_a_wrong_value_is_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}="):
        replace(SMALLEST, **change)


def test_the_command_makes_a_size_and_tells_beforehand_what_it_will_be(written, tmp_path, monkeypatch, capsys):
    words = ["--benchmark", "vod-synth-1", "--size", "smallest", "--output", str(tmp_path / "set"), "--workers", "1"]
    _tool().main([*words, "--dry-run"])
    assert "2 training videos of 9 frames, 2 validation videos of 41, 3 stills" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()
    _tool().main(words)
    assert _contents(tmp_path / "set") == _contents(written)


@pytest.mark.parametrize(
    "mistake", [["--size", "huge"], ["--size", "tiny", "--seed", "1"], [], ["--size", "tiny", "--frames", "9"]]
)
def test_the_command_refuses_what_would_not_be_the_benchmark(mistake, tmp_path, capsys):
    with pytest.raises(SystemExit):
        _tool().main(["--benchmark", "vod-synth-1", "--output", str(tmp_path / "set"), *mistake])
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_the_picture_has_a_row_for_each_kind_in_which_strength_hides_the_emblem():
    sheet = contact_sheet().astype(int)
    rows = sheet[18:].reshape(len(KINDS), 64, -1, 3)
    for row in rows:
        weak, strong = row[:, 92 : 92 + 186], row[:, 92 + 3 * 186 :]
        assert np.abs(weak - strong).mean() > 3


def test_an_emblem_lies_on_its_silhouette():
    for category in range(30):
        look = draw_object_look(np.random.default_rng(1), category, 10)
        pose, patch = Pose(50 * UNIT, 50 * UNIT, 80 * UNIT), Patch(0, 0, 101)
        outline, marked = draw_mask(look.shape, pose, patch), patch.canvas()
        fill(marked, (*look.emblem.light, *look.emblem.dark), pose, patch, 1)
        assert marked.sum() > 0 and (marked & ~outline & 1).sum() <= 0.02 * marked.sum()


def test_looks_differ_in_colour_and_not_in_shape():
    first, second = (draw_look(np.random.default_rng(seed), ([], []), None, 40) for seed in (0, 1))
    assert first.shape == second.shape and first.body != second.body
