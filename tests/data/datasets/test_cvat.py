"""Videos annotated in CVAT; the samples are written here."""

import logging
import zipfile

import pytest

from helpers.checking import check, kinds
from helpers.loaders import assert_loaders_show_the_right_frames, forget
from helpers.tools import cvat, cvat_box, cvat_project, cvat_task, cvat_track
from helpers.videos import write_numbered_images, write_numbered_video
from vod2.d2 import DatasetCatalog, MetadataCatalog
from vod2.data.datasets import cvat_parser, load_cvat, register_cvat
from vod2.data.datasets.cvat_parser import ParsedTrack
from vod2.data.datasets.faults import Place
from vod2.data.datasets.keyframes import Keyframe, fill_track
from vod2.errors import UserError

BOX = (4.0, 5.0, 14.0, 25.0)
CAR = cvat_track(
    0,
    "car",
    *(cvat_box(frame, (4 + frame, 5, 14 + frame, 25), keyframe=int(frame == 0)) for frame in range(3)),
    cvat_box(3, (6, 5, 16, 25), outside=1),
)
PERSON = cvat_track(1, "person", cvat_box(2, BOX, occluded=1), cvat_box(3, BOX, outside=1))


@pytest.fixture
def write(tmp_path):
    def write_xml(text, images=6):
        path = tmp_path / "annotations.xml"
        path.write_text(text, encoding="utf-8")
        if images:
            write_numbered_images(tmp_path / "images", [f"frame_{index:06d}.PNG" for index in range(images)])
        return path

    return write_xml


def boxes_of(dicts, label=None):
    """{frame: [(box, category, track, occluded)]} of the frames with an object."""
    found = {}
    for record in dicts:
        for note in record["annotations"]:
            row = (tuple(note["bbox"]), note["category_id"], note.get("track_id"), note["occluded"])
            if label is None or note["category_id"] == label:
                found.setdefault(record["frame_index"], []).append(row)
    return found


def test_every_frame_of_a_task_has_a_dict_and_outside_boxes_are_no_objects(write, tmp_path, caplog):
    path = write(cvat(CAR, PERSON))
    with caplog.at_level(logging.WARNING):
        dicts, names = load_cvat(path)
    assert names == ["car", "person"]  # all labels, in the order of the file
    assert [record["image_id"] for record in dicts] == [f"clip 1/{index:06d}" for index in range(6)]
    assert {(record["height"], record["width"], record["video_length"]) for record in dicts} == {(32, 48, 6)}
    assert dicts[4]["file_name"] == str(tmp_path / "images" / "frame_000004.PNG")
    assert boxes_of(dicts) == {
        0: [((4, 5, 14, 25), 0, 0, 0)],
        1: [((5, 5, 15, 25), 0, 0, 0)],
        2: [((6, 5, 16, 25), 0, 0, 0), (BOX, 1, 1, 1)],
    }
    assert caplog.text == ""  # a file as CVAT writes it has nothing to tell
    assert load_cvat(tmp_path)[0] == dicts  # the folder of the export


def test_the_frames_may_be_in_a_video_file(write, tmp_path):
    path = write(cvat(CAR, PERSON), images=0)
    write_numbered_video(tmp_path / "videos" / "clip 1.mp4", 6)
    name = "cvat_for_a_test"
    try:
        register_cvat(name, path, video_root=tmp_path / "videos")
        dicts = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).thing_classes == ["car", "person"]
        assert {record["video_file"] for record in dicts} == {str(tmp_path / "videos" / "clip 1.mp4")}
        assert_loaders_show_the_right_frames(name, {"clip 1": 6})
        assert kinds(check(name)) == set()
    finally:
        forget(name)


def by_hand(keys, frames):
    """{frame: box} of [(frame, box, outside)], frame by frame, as CVAT's documents tell it."""
    found = {}
    for frame in frames:
        before = [key for key in keys if key[0] <= frame]
        if not before or before[-1][2]:
            continue
        start, box, _ = before[-1]
        after = next((key for key in keys if key[0] > frame), None)
        if after is not None and start != frame:
            share = (frame - start) / (after[0] - start)
            box = tuple(a + share * (b - a) for a, b in zip(box, after[1], strict=True))
        found[frame] = box
    return found


def test_frames_between_keyframes_are_interpolated_and_counted(write, caplog):
    keys = [(0, (0, 0, 10, 10), 0), (3, (9, 3, 22, 16), 0), (4, (9, 3, 22, 16), 1), (5, BOX, 0)]
    path = write(cvat(cvat_track(4, "car", *(cvat_box(frame, box, outside) for frame, box, outside in keys))), 8)
    path.write_text(path.read_text().replace("<size>6<", "<size>8<"))
    with caplog.at_level(logging.WARNING):
        dicts, _ = load_cvat(path)
    expected = by_hand(keys, range(8))
    assert sorted(expected) == [0, 1, 2, 3, 5, 6, 7] and expected[1] == (3, 1, 14, 12)
    found = {frame: rows[0][0] for frame, rows in boxes_of(dicts).items()}
    assert found == {frame: pytest.approx(box) for frame, box in expected.items()}
    assert "2 boxes interpolated between those of the file" in caplog.text
    assert "2 boxes held until the video ends" in caplog.text


def test_a_track_whose_keyframes_all_are_in_the_next_frame_has_nothing_made_up(write):
    path = write(cvat(cvat_track(0, "car", cvat_box(5, BOX))))
    assert sorted(boxes_of(load_cvat(path)[0])) == [5]


def test_a_task_of_every_third_frame_has_dicts_of_these_alone(write, tmp_path):
    task = cvat_task(size=3, start=1, stop=9, step=3)
    track = cvat_track(0, "car", cvat_box(1, (0, 0, 6, 6)), cvat_box(7, (12, 0, 18, 6)), cvat_box(8, BOX, outside=1))
    path = write(cvat(track, meta=task), images=0)
    write_numbered_video(tmp_path / "clip 1.mp4", 10)
    dicts, _ = load_cvat(path, video_root=tmp_path)
    assert [record["frame_index"] for record in dicts] == [1, 4, 7] and dicts[0]["video_length"] == 10
    assert {frame: rows[0][0] for frame, rows in boxes_of(dicts).items()} == {
        1: (0, 0, 6, 6),
        4: (6, 0, 12, 6),
        7: (12, 0, 18, 6),
    }
    # The same as images that were exported by another program, in natural order.
    write_numbered_images(tmp_path / "images" / "clip 1", ["a1.png", "a2.png", "a10.png"])
    dicts, _ = load_cvat(path)
    assert [record["file_name"][-7:] for record in dicts] == ["/a1.png", "/a2.png", "a10.png"]
    assert [record["frame_index"] for record in dicts] == [1, 4, 7]


def test_a_project_has_a_video_for_each_task(write, tmp_path):
    tasks = [cvat_task(1, "one", 2, source="a.mp4", labels=""), cvat_task(2, "two", 3, source="", labels="")]
    tracks = [
        cvat_track(0, "car", cvat_box(1, BOX), more=' task_id="1" subset="Train"'),
        cvat_track(1, "person", cvat_box(2, BOX), more=' task_id="2" subset="Train"'),
    ]
    path = write(cvat(*tracks, meta=cvat_project(*tasks)), images=0)
    write_numbered_images(tmp_path / "a", ["0.png", "1.png"])
    write_numbered_images(tmp_path / "images" / "two", ["0.png", "1.png", "2.png"])
    dicts, names = load_cvat(path)
    assert names == ["car", "person"]
    assert [record["image_id"] for record in dicts if record["annotations"]] == ["a/000001", "two/000002"]
    assert len(dicts) == 5 and kinds(check(path)) == set()


def test_images_of_cvat_for_images_have_boxes_without_tracks(write, tmp_path, caplog):
    box = cvat_box(0, BOX).replace('<box frame="0" keyframe="1" outside="0"', '<box label="person"')
    images = [
        f'<image id="{index}" name="walk/{index}.png" width="48" height="32">{box if index == 1 else ""}'
        '<polygon label="car" points="1,2;3,4;5,6"></polygon></image>\n'
        for index in range(3)
    ]
    path = write(cvat(*images, meta=cvat_task(source="", name="walk", size=3)), images=0)
    write_numbered_images(tmp_path / "images" / "walk", ["0.png", "1.png", "2.png"])
    with caplog.at_level(logging.WARNING):
        dicts, _ = load_cvat(path)
    assert [record["image_id"] for record in dicts] == [f"walk/{index:06d}" for index in range(3)]
    assert boxes_of(dicts) == {1: [(BOX, 1, None, 0)]}
    assert "3 shapes of the kind polygon left out, as only boxes are read" in caplog.text
    assert kinds(check(path)) == set()


def test_a_rotated_box_becomes_the_upright_one_around_it(write, caplog):
    # A quarter of a turn about the centre (20, 15), and half the way to it.
    keys = [
        cvat_box(0, (10, 10, 30, 20)),
        cvat_box(2, (10, 10, 30, 20), more=' rotation="270.00"'),
        cvat_box(3, BOX, outside=1),
    ]
    path = write(cvat(cvat_track(0, "car", *keys)))
    with caplog.at_level(logging.WARNING):
        found = {frame: rows[0][0] for frame, rows in boxes_of(load_cvat(path)[0]).items()}
    half = 15 / 2**0.5  # (20 + 10) / 2 / sqrt(2)
    assert found[2] == pytest.approx((15, 5, 25, 25))
    assert found[1] == pytest.approx((20 - half, 15 - half, 20 + half, 15 + half))  # the shorter way, by -45 degrees
    assert "2 rotated boxes replaced" in caplog.text


def test_classes_may_be_chosen_and_a_list_too(write, tmp_path):
    path = write(cvat(CAR, PERSON))
    dicts, names = load_cvat(path, class_names=["person"])
    assert names == ["person"] and sorted(boxes_of(dicts)) == [2]
    listed = tmp_path / "list.json"
    listed.write_text('["clip 1/000002"]')
    assert [record["frame_index"] for record in load_cvat(path, list_file=listed)[0]] == [2]
    with pytest.raises(UserError, match="class 'bus' is not among its categories"):
        load_cvat(path, class_names=["bus"])


DOCTYPE = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb">]><annotations>&b;</annotations>'
TWINS = [cvat_task(id, "images", source="") for id in (1, 2)]
BROKEN = {
    "a document type": (DOCTYPE, "DOCTYPE is not allowed"),
    "no XML": ("nothing", "broken XML"),
    "nothing": ("", "an empty file"),
    "another root": ("<annotation></annotation>", "its root is <annotation>, expected <annotations>"),
    "a deep tree": (f"<annotations>{'<a>' * 200}", "nested too deeply"),
    "no number": (cvat(CAR.replace('"4.00"', '"x"')), r"track\[0\]: box\[0\]: xtl is 'x', expected a number"),
    "a frame twice": (cvat(CAR.replace('frame="1"', 'frame="0"')), "a second box in frame 0"),
    "a track twice": (cvat(CAR, CAR), "another track has the id 0"),
    "a label that is none": (
        cvat(CAR.replace('"car"', '"cat"')),
        "class 'cat' is unknown, expected one of car, person",
    ),
    "a frame beyond": (cvat(CAR.replace('frame="2"', 'frame="60"')), "frame 60 of video 'clip 1', which has 6 frames"),
    "a video twice": (cvat(meta=cvat_project(*TWINS)), "another video is called 'images', too"),
    "a way out": (cvat(CAR, meta=cvat_task(name="../../x", source="")), "called '../../x', expected a name"),
    "an unknown task": (cvat(CAR.replace("<track", '<track task_id="9"')), "task_id is '9', expected one of 1"),
    "more frames": (cvat(CAR, meta=cvat_task(size=9)), "frame 6 is not there"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_its_place_and_found_by_the_check(write, case):
    text, message = BROKEN[case]
    path = write(text)
    with pytest.raises(UserError, match=message) as error:
        load_cvat(path)
    assert "annotations.xml" in str(error.value)
    assert check(path, format="cvat").count("error")


def test_a_video_that_is_not_there_is_named(write, tmp_path):
    path = write(cvat(CAR), images=0)
    with pytest.raises(UserError, match="its images are not there, expected a folder with them"):
        load_cvat(path)
    with pytest.raises(UserError, match=r"clip 1.avi is not there"):
        load_cvat(path, video_root=tmp_path, video_suffix=".avi")
    assert kinds(check(path)) == {("error", "missing_video")}
    with pytest.raises(UserError, match="neither a folder or file"):
        check(tmp_path / "other.xml", format="cvat")


def test_a_track_takes_time_for_its_own_boxes_and_not_for_all_frames_or_tracks(write, monkeypatch):
    class Frames(list):
        def __iter__(self):
            raise AssertionError("all frames were walked through for one track")

    keys = [Keyframe(Place("a"), 2, BOX), Keyframe(Place("a"), 4, BOX, goes_on=False)]
    assert [found.key.frame for found in fill_track(keys, Frames(range(9)))] == [2, 3, 4]

    asked, passed = [], []

    class Track(ParsedTrack):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

    def fill(keys, frames):
        passed.append(frames)
        return fill_track(keys, frames)

    monkeypatch.setattr(cvat_parser, "ParsedTrack", Track)
    monkeypatch.setattr("vod2.data.datasets.cvat.fill_track", fill)
    path = write(cvat(*(cvat_track(number, "car", cvat_box(0, BOX)) for number in range(40))))
    cvat_parser.parse_cvat(path)
    assert asked.count("id") <= 40  # by their number, tracks are not compared with each other
    load_cvat(path)
    assert len(passed) == 40 and all(frames is passed[0] for frames in passed)


def write_single(folder, name, images, count=6, source="clip 1.mp4", label="car"):
    """An export of one task, and its images."""
    labels = f"<labels><label><name>{label}</name></label></labels>"
    meta = cvat_task(name="walk", size=count, stop=count - 1, source=source, labels=labels)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(cvat(cvat_track(0, label, cvat_box(count - 1, BOX)), meta=meta), encoding="utf-8")
    if images:
        write_numbered_images(folder / images, [f"frame_{index:06d}.PNG" for index in range(count)])
    return path


def test_a_folder_of_single_exports_is_one_dataset_in_natural_order(tmp_path, caplog):
    write_single(tmp_path, "clip_10/annotations.xml", "clip_10/images", 3, "ten.mp4", "person")
    write_single(tmp_path, "clip_2/annotations.xml", "clip_2", 4, "two.mp4")
    write_single(tmp_path, "a.xml", "images/a", 2, "a.mp4")
    write_single(tmp_path, "b.xml", "b", 2, "b.mp4", "bus")
    with caplog.at_level(logging.WARNING):
        dicts, names = load_cvat(tmp_path)
    assert names == ["car", "bus", "person"]
    found = {record["image_id"]: (record["file_name"], note["category_id"]) for record, note in annotated(dicts)}
    assert found == {
        "a/000001": (str(tmp_path / "images/a/frame_000001.PNG"), 0),
        "b/000001": (str(tmp_path / "b/frame_000001.PNG"), 1),
        "two/000003": (str(tmp_path / "clip_2/frame_000003.PNG"), 0),
        "ten/000002": (str(tmp_path / "clip_10/images/frame_000002.PNG"), 2),
    }
    assert len(dicts) == 11 and caplog.text == ""
    report = check(tmp_path)  # its layout is recognized
    assert kinds(report) == set()
    write_single(tmp_path, "annotations.xml", "")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="its images are not there"):
        load_cvat(tmp_path)
    assert "only annotations.xml is read" in caplog.text and "b.xml" in caplog.text


def annotated(dicts):
    return [(record, note) for record in dicts for note in record["annotations"]]


def test_videos_of_one_name_in_two_files_are_told_apart(tmp_path, caplog):
    write_single(tmp_path, "one/annotations.xml", "one/images")
    write_single(tmp_path, "two/annotations.xml", "two/images")
    with caplog.at_level(logging.WARNING):
        dicts, _ = load_cvat(tmp_path)
    assert [record["image_id"] for record, _ in annotated(dicts)] == ["clip 1/000005", "two_clip 1/000005"]
    assert "its video 'clip 1' is called 'two_clip 1', as" in caplog.text
    # One file of both would be the same frames with other objects.
    write_numbered_video(tmp_path / "videos" / "clip 1.mp4", 6)
    with pytest.raises(UserError, match="frame 0 of its video 'two_clip 1' is .*clip 1.mp4, which .* has, too"):
        load_cvat(tmp_path, video_root=tmp_path / "videos")
    write_numbered_video(tmp_path / "videos" / "two_clip 1.mp4", 6)
    dicts, _ = load_cvat(tmp_path, video_root=tmp_path / "videos")
    assert dicts[6]["video_file"] == str(tmp_path / "videos" / "two_clip 1.mp4")


def test_two_files_do_not_share_the_images_beside_them(tmp_path):
    write_single(tmp_path, "a.xml", "images", source="a.mp4")
    write_single(tmp_path, "b.xml", "", source="b.mp4")
    with pytest.raises(UserError, match="its images are not there"):
        load_cvat(tmp_path)
    image = '<image id="0" name="frame_000000" width="48" height="32"></image>'
    for name in "ab":
        (tmp_path / f"{name}.xml").write_text(cvat(image, meta=cvat_task(name=name, source="", size=1)))
    with pytest.raises(UserError, match=r"frame 0 of its video 'b' is .*frame_000000.PNG, which .*a.xml has, too"):
        load_cvat(tmp_path)


def test_archives_are_to_be_unpacked_and_a_folder_without_files_is_told(tmp_path):
    path = tmp_path / "in" / "task.zip"
    path.parent.mkdir()
    with pytest.raises(UserError, match="there is no file of CVAT in it, expected annotations.xml"):
        load_cvat(path.parent)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", cvat(CAR))
    for given in (path, path.parent):
        with pytest.raises(UserError, match="unpack"):
            load_cvat(given)
        assert check(given, format="cvat").count("error") >= 1
    with pytest.raises(UserError, match="a ZIP archive: unpack it"):
        check(path)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg"])
def test_names_without_a_suffix_are_those_of_the_images_that_have_one(write, tmp_path, suffix):
    names = [f"frame_{index:06d}" for index in range(3)]
    images = [f'<image id="{i}" name="{name}" width="48" height="32"></image>' for i, name in enumerate(names)]
    path = write(cvat(*images), images=0)
    write_numbered_images(tmp_path / "images", [name + suffix for name in names])
    dicts, _ = load_cvat(path)
    assert [record["file_name"] for record in dicts] == [str(tmp_path / "images" / (n + suffix)) for n in names]
    assert ("error", "missing_frame") not in kinds(check(path))
    (tmp_path / "images" / (names[0] + suffix)).unlink()
    with pytest.raises(UserError, match="its image .*images/frame_000000 is not there"):
        load_cvat(path)
    assert ("error", "missing_frame") in kinds(check(path))
